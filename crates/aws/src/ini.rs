//! The format of `~/.aws/credentials` and `~/.aws/config`: sections of `key = value` lines.

/// The value of a key in a section, the last one if there are several.
pub(crate) fn value(text: &str, section: &str, key: &str) -> Option<String> {
    let mut inside = false;
    let mut found = None;
    for line in text.lines() {
        let line = line.trim_end();
        // An indented line belongs to a nested setting of the line before.
        if line.is_empty() || line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.split_once(']').map_or("", |(name, _)| name).trim();
            inside = name == section;
            continue;
        }
        if inside
            && let Some((name, value)) = line.split_once('=')
            && name.trim().eq_ignore_ascii_case(key)
        {
            found = Some(value.trim().to_owned());
        }
    }
    found.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::value;

    const TEXT: &str = "# a comment\n[default]\nregion=eu-west-1\ns3 =\n  region = nested\n\
                        [profile two]\nRegion = us-east-1\nregion = us-east-2 \nempty =\n";

    #[test]
    fn a_value_is_found_in_its_own_section_only() {
        assert_eq!(
            value(TEXT, "default", "region").as_deref(),
            Some("eu-west-1")
        );
        assert_eq!(
            value(TEXT, "profile two", "region").as_deref(),
            Some("us-east-2")
        );
        assert_eq!(value(TEXT, "two", "region"), None);
        assert_eq!(value(TEXT, "profile two", "empty"), None);
        assert_eq!(value(TEXT, "default", "s3"), None);
    }

    #[test]
    fn any_text_is_read_without_a_panic() {
        for text in ["", "[", "[]", "=", "[a\nb=c", "[default]\n=x\nregion"] {
            assert_eq!(value(text, "default", "region"), None, "{text:?}");
        }
    }
}
