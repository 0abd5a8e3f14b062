//! Finds values inside quotes: there the quoting of the escape function would end the quotes instead of being a word.

/// A `{{ … }}` in the wrong place.
#[derive(Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Line in the template, from 1.
    pub line: usize,
    /// The expression as written.
    pub expression: String,
    /// Where it stands, in words.
    pub inside: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Plain,
    Single,
    Double,
    HereDocument,
}

/// The values of a shell template that stand inside quotes or a here-document and are not marked `| safe`.
#[must_use]
pub fn quoted_values(template: &str) -> Vec<Quoted> {
    let mut found = Vec::new();
    let mut state = State::Plain;
    let mut end_of_document: Option<String> = None;
    for (index, line) in template.lines().enumerate() {
        if let Some(end) = &end_of_document {
            if line.trim_start_matches('\t') == end {
                end_of_document = None;
                state = State::Plain;
                continue;
            }
            state = State::HereDocument;
        }
        state = scan_line(line, state, index + 1, &mut found);
        if state == State::Plain {
            end_of_document = here_document(line);
        }
    }
    found
}

/// Scans one line and gives the state after it.
fn scan_line(line: &str, mut state: State, number: usize, found: &mut Vec<Quoted>) -> State {
    let mut rest = line;
    let mut word_start = true;
    while let Some(char) = rest.chars().next() {
        if let Some((block, after)) = tera_block(rest) {
            let inside = match state {
                State::Plain => None,
                State::Single => Some("single quotes"),
                State::Double => Some("double quotes"),
                State::HereDocument => Some("a here-document"),
            };
            let raw = block.trim_end_matches("}}").trim_end().ends_with("safe");
            if let Some(inside) = inside
                && block.starts_with("{{")
                && !raw
            {
                found.push(Quoted {
                    line: number,
                    expression: block.to_owned(),
                    inside,
                });
            }
            rest = after;
            word_start = false;
            continue;
        }
        let mut skip = char.len_utf8();
        state = match (state, char) {
            (State::Plain, '#') if word_start => return State::Plain,
            (State::Plain | State::Double, '\\') => {
                skip += rest[1..].chars().next().map_or(0, char::len_utf8);
                state
            }
            (State::Plain, '\'') => State::Single,
            (State::Plain, '"') => State::Double,
            (State::Single, '\'') | (State::Double, '"') => State::Plain,
            _ => state,
        };
        word_start = char.is_whitespace() || char == ';';
        rest = &rest[skip..];
    }
    state
}

/// A tera expression, statement or comment at the start of `text`, and what follows it.
fn tera_block(text: &str) -> Option<(&str, &str)> {
    let close = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")]
        .iter()
        .find(|(open, _)| text.starts_with(open))?
        .1;
    let end = text.find(close)? + close.len();
    Some(text.split_at(end))
}

/// The word that ends the here-document which starts on this line, if one does.
fn here_document(line: &str) -> Option<String> {
    let (before, after) = line.split_once("<<")?;
    if after.starts_with('<') || before.trim_start().starts_with('#') || before.ends_with("$((") {
        return None;
    }
    let word: String = after
        .trim_start_matches('-')
        .trim_start()
        .chars()
        .take_while(|char| !char.is_whitespace() && !";|&)".contains(*char))
        .filter(|char| !"'\"\\".contains(*char))
        .collect();
    // A digit is an arithmetic shift, as in `$((1<<2))`.
    word.starts_with(|first: char| first.is_alphabetic() || first == '_')
        .then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(template: &str) -> Vec<(usize, &'static str)> {
        quoted_values(template)
            .into_iter()
            .map(|quoted| (quoted.line, quoted.inside))
            .collect()
    }

    #[test]
    fn values_in_quotes_are_found() {
        assert_eq!(lines("echo '{{ a }}'"), [(1, "single quotes")]);
        assert_eq!(lines("x\necho \"a {{ a }} b\""), [(2, "double quotes")]);
        assert_eq!(
            lines("cat <<EOF\n{{ a }}\nEOF\necho {{ a }}"),
            [(2, "a here-document")]
        );
        assert_eq!(lines("echo 'two\nlines {{ a }}'"), [(2, "single quotes")]);
    }

    #[test]
    fn values_outside_of_quotes_are_left_alone() {
        assert!(lines("echo {{ a }} 'b' {{ c }} \"d\"").is_empty());
        assert!(lines("# don't mind {{ a }}\necho {{ a }}").is_empty());
        assert!(lines("echo it\\'s {{ a }}").is_empty());
        assert!(lines("echo '{{ a | safe }}'").is_empty());
        assert!(lines("x=$((1<<2)) # shift\necho {{ a }}").is_empty());
        assert!(lines("echo '{% if a %}b{% endif %}'").is_empty());
    }
}
