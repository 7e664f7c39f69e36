//! Answers in XML as small trees: EC2, STS and SQS speak the query protocol.
//!
//! Names are taken without their namespace, attributes are left out (no answer that is read here has
//! any that matter), and what is nested too deeply or cut off is refused.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

use crate::error::{Fault, plain};

/// Most elements inside one another. EC2's answers need eight.
const MOST_DEPTH: usize = 32;

/// An element with what is in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    name: String,
    text: String,
    children: Vec<Self>,
}

impl Element {
    /// Reads a document.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let wrong = |what: &str| Fault::Garbled(plain(&format!("the XML {what}")));
        let mut reader = Reader::from_str(text);
        // The first is the document itself.
        let mut open = vec![Self::default()];
        loop {
            let event = reader
                .read_event()
                .map_err(|error| wrong(&format!("is broken: {error}")))?;
            let top = open.last_mut().ok_or_else(|| wrong("has no root"))?;
            match event {
                Event::Start(start) => {
                    if open.len() > MOST_DEPTH {
                        return Err(wrong("is nested too deeply"));
                    }
                    open.push(Self {
                        name: start.local_name().as_ref().to_owned(),
                        ..Self::default()
                    });
                }
                Event::Empty(start) => top.children.push(Self {
                    name: start.local_name().as_ref().to_owned(),
                    ..Self::default()
                }),
                // The reader has checked that the names are the same.
                Event::End(_) => {
                    let done = open.pop().unwrap_or_default();
                    let above = open.last_mut().ok_or_else(|| wrong("ends too early"))?;
                    above.children.push(done);
                }
                Event::Text(text) => top.text.push_str(&text.xml10_content()),
                Event::CData(text) => top.text.push_str(&text.xml10_content()),
                Event::GeneralRef(name) => match character(&name) {
                    Some(text) => top.text.push_str(&text),
                    None => return Err(wrong("has an entity of its own")),
                },
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        let [document] = <[Self; 1]>::try_from(open).map_err(|_open| wrong("is cut off"))?;
        let root = document.children.into_iter().next();
        root.ok_or_else(|| wrong("has no root"))
    }

    /// The first element of this name inside.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The same, taken out.
    pub(crate) fn take(&mut self, name: &str) -> Option<Self> {
        let at = self.children.iter().position(|child| child.name == name)?;
        Some(self.children.swap_remove(at))
    }

    /// Every element of this name inside.
    pub(crate) fn children(&self, name: &str) -> impl Iterator<Item = &Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The members of a list inside: `<NAME><item>…</item></NAME>`.
    pub(crate) fn items(&self, name: &str) -> impl Iterator<Item = &Self> {
        self.child(name)
            .into_iter()
            .flat_map(|list| list.children("item"))
    }

    /// The text of an element inside, unless it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let text = self.child(name)?.text.trim();
        (!text.is_empty()).then_some(text)
    }

    /// The same as a string of its own; empty where there is none.
    pub(crate) fn string(&self, name: &str) -> String {
        self.text(name).unwrap_or_default().to_owned()
    }
}

/// What `&name;` stands for.
fn character(name: &str) -> Option<String> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code).map(String::from);
    }
    resolve_predefined_entity(name).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_names_texts_and_lists() {
        let root = Element::parse(
            "<?xml version=\"1.0\"?>\n<r xmlns=\"http://x/\"><a>1 &amp; &#x32;</a>\n<s><item><n>x</n></item><item/></s><e/></r>",
        )
        .unwrap();
        assert_eq!(root.text("a"), Some("1 & 2"));
        assert_eq!(root.items("s").count(), 2);
        assert_eq!(root.items("s").next().unwrap().string("n"), "x");
        assert_eq!(root.text("e"), None);
        assert_eq!(root.items("none").count(), 0);
    }

    #[test]
    fn what_is_cut_nested_too_deeply_or_with_entities_of_its_own_is_refused() {
        let deep = "<a>".repeat(40) + &"</a>".repeat(40);
        let bomb = "<!DOCTYPE r [<!ENTITY l \"lol\">]><r>&l;</r>";
        for text in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a",
            deep.as_str(),
            bomb,
        ] {
            assert!(Element::parse(text).is_err(), "{text:.40}");
        }
    }
}
