//! Constraints of the service models, worded as services of AWS word them.

use std::ops::RangeInclusive;

/// Whether a text is as long as its shape allows, in characters.
///
/// # Errors
/// The message; its code is the service's.
pub fn length(name: &str, value: &str, limits: RangeInclusive<usize>) -> Result<(), String> {
    let count = value.chars().count();
    let bound = if count < *limits.start() {
        format!("greater than or equal to {}", limits.start())
    } else if count > *limits.end() {
        format!("less than or equal to {}", limits.end())
    } else {
        return Ok(());
    };
    Err(format!(
        "1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: Member must have length \
         {bound}"
    ))
}

/// The same for each text of a list.
///
/// # Errors
/// The message about the first that is not.
pub fn lengths(name: &str, values: &[String], limits: RangeInclusive<usize>) -> Result<(), String> {
    values
        .iter()
        .try_for_each(|value| length(name, value, limits.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_said() {
        assert_eq!(length("name", "abc", 1..=3), Ok(()));
        let long = length("name", "abcd", 1..=3).unwrap_err();
        assert!(long.ends_with(
            "'name' failed to satisfy constraint: Member must have length less than or equal to 3"
        ));
        let short = lengths("name", &["a".into(), String::new()], 1..=3).unwrap_err();
        assert!(short.ends_with("greater than or equal to 1"));
    }
}
