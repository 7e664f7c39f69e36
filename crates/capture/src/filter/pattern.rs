//! Texts with `*` for any number of characters.

/// Most stars in one pattern.
const MAX_STARS: usize = 8;

/// A text in which `*` stands for any characters, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

impl Pattern {
    /// None for one with more stars than a filter may have.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let stars = text.bytes().filter(|byte| *byte == b'*').count();
        (stars <= MAX_STARS).then(|| Self {
            text: text.to_owned(),
        })
    }

    /// Whether the whole of `text` fits. Takes a time that grows with the product of both lengths
    /// at most.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.text.split('*');
        let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
            return false;
        };
        let mut rest = rest;
        let Some(last) = parts.next_back() else {
            // No star at all.
            return rest.is_empty();
        };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn a_star_is_any_text_or_none() {
        for (pattern, text, fits) in [
            ("web", "web", true),
            ("web", "webs", false),
            ("web", "we", false),
            ("", "", true),
            ("*", "", true),
            ("*", "anything", true),
            ("*.example.com", "www.example.com", true),
            ("*.example.com", "example.com", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("*b*", "abc", true),
            ("ä*", "äö", true),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            assert_eq!(pattern.matches(text), fits, "{pattern:?} {text}");
        }
        assert!(Pattern::new(&"*".repeat(9)).is_none());
    }
}
