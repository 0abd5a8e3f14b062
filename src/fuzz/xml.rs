//! Whether a text is well-formed XML of the kind that the local cloud writes: elements, one namespace, text.

/// # Errors
/// What is wrong with it.
pub fn well_formed(text: &str) -> Result<(), String> {
    let mut rest = text.trim_start();
    if let Some(after) = rest.strip_prefix("<?xml") {
        rest = after
            .split_once("?>")
            .ok_or("the declaration does not end")?
            .1;
    }
    let mut open: Vec<&str> = Vec::new();
    let mut roots = 0;
    loop {
        let (before, tag) = match rest.split_once('<') {
            Some(parts) => parts,
            None if open.is_empty() && rest.trim().is_empty() && roots == 1 => return Ok(()),
            None => return Err(format!("{roots} roots, {open:?} open, {rest:?} left")),
        };
        characters(before)?;
        if open.is_empty() && !before.trim().is_empty() {
            return Err(format!("text outside the root: {before:?}"));
        }
        let (tag, after) = tag.split_once('>').ok_or("a tag does not end")?;
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("`{name}` ends and was not open"));
            }
            continue;
        }
        roots += usize::from(open.is_empty());
        let (tag, empty) = tag
            .strip_suffix('/')
            .map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let named = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(named) {
            return Err(format!("`{name}` is no name"));
        }
        let namespace = attributes.starts_with("xmlns=\"") && attributes.ends_with('"');
        if !(attributes.is_empty() || namespace) {
            return Err(format!("unexpected attributes: {attributes}"));
        }
        if !empty {
            open.push(name);
        }
    }
}

/// XML 1.0, production 2 (`Char`), and ampersands that begin a reference.
fn characters(text: &str) -> Result<(), String> {
    let forbidden = |c: char| {
        (c < ' ' && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}')
    };
    if let Some(c) = text.chars().find(|c| forbidden(*c)) {
        return Err(format!("{c:?} is no character of XML"));
    }
    for reference in text.split('&').skip(1) {
        let known = ["amp;", "lt;", "gt;", "quot;", "apos;", "#"];
        if !known.iter().any(|name| reference.starts_with(name)) {
            return Err(format!("a bare ampersand: {text:?}"));
        }
    }
    Ok(())
}
