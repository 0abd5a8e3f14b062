//! `labels`: tags for the image.

use std::collections::BTreeMap;

use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::node::Node;

/// Lengths in characters (EC2 User Guide, "Tag your Amazon EC2 resources", tag restrictions).
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;

pub fn read_labels(node: Node<'_>, found: &mut Diagnostics) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for entry in node.entries(found) {
        let (key, lower) = (entry.key, entry.key.to_ascii_lowercase());
        let reserved = if lower.starts_with("aws:") {
            Some("keys that begin with `aws:` belong to AWS")
        } else if lower.starts_with("piaas-bake:") {
            Some("keys that begin with `piaas-bake:` belong to piaas-bake")
        } else if key == "Name" {
            Some("piaas-bake sets `Name` to the name of the image")
        } else {
            None
        };
        let help = "use 1 to 128 letters, digits, blanks and _ . : / = + - @, the characters that all of AWS takes";
        if let Some(why) = reserved {
            found.push(entry.diagnostic(format!("the label `{key}` is reserved"), why));
        } else if key.is_empty() || !fits(key, LONGEST_KEY) {
            found.push(entry.diagnostic(format!("`{key}` is not the key of a label"), help));
        } else if let Some(value) = entry.node.checked(
            "the value of a label",
            |text| fits(text, LONGEST_VALUE),
            "use at most 256 letters, digits, blanks and _ . : / = + - @; labels are not rendered",
            found,
        ) {
            labels.insert(key.to_owned(), value);
        }
    }
    labels
}

fn fits(text: &str, longest: usize) -> bool {
    text.chars().count() <= longest
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || " _.:/=+-@".contains(c))
}
