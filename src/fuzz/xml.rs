//! Whether a text is well-formed XML of the kind that the local cloud writes: elements, one namespace, text.

use roxmltree::Document;

/// # Errors
/// What is wrong with it.
pub fn well_formed(text: &str) -> Result<(), String> {
    if text.contains("<![") {
        return Err("a section of CDATA".to_owned());
    }
    let document = Document::parse(text).map_err(|error| error.to_string())?;
    for node in document.descendants() {
        if !(node.is_root() || node.is_element() || node.is_text()) {
            return Err(format!("unexpected: {:?}", node.node_type()));
        }
        let name = node.tag_name().name();
        let named = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if node.is_element() && !(begins && name.chars().all(named)) {
            return Err(format!("`{name}` is no name"));
        }
        if node.attributes().len() > 0 {
            return Err(format!("unexpected attributes of `{name}`"));
        }
    }
    Ok(())
}
