//! Filters and pages of the `Describe…` operations.

use std::ops::RangeInclusive;

use super::super::state::Tags;
use super::super::wire::error::ApiError;
use super::super::wire::page_token;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::invalid_value;

/// Filters: all must match; of one filter's values any.
#[derive(Debug, Default)]
pub struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    /// Takes the filters; besides `known`, all have `tag:<key>` and `tag-key`.
    pub fn take(params: &mut Params, known: &[&str]) -> Result<Self, ApiError> {
        let mut filters = Vec::new();
        for (index, mut filter) in params.structures("Filter").into_iter().enumerate() {
            let name = filter.require("Name")?;
            let values = filter.texts("Value");
            filter.finish(&format!("Filter.{}", index + 1))?;
            let is_known =
                name.starts_with("tag:") || name == "tag-key" || known.contains(&name.as_str());
            if !is_known {
                return Err(ApiError::new(
                    "InvalidParameterValue",
                    format!("The filter '{name}' is invalid"),
                ));
            }
            if values.is_empty() {
                return Err(ApiError::new(
                    "InvalidParameterValue",
                    format!("The filter '{name}' has no values"),
                ));
            }
            filters.push((name, values));
        }
        Ok(Self(filters))
    }

    /// Whether a resource matches; `field` gives the values of a known filter.
    pub fn matches(&self, tags: &Tags, field: impl Fn(&str) -> Vec<String>) -> bool {
        self.0.iter().all(|(name, patterns)| {
            let values = match name.strip_prefix("tag:") {
                Some(key) => tags.get(key).cloned().into_iter().collect(),
                None if name == "tag-key" => tags.keys().cloned().collect(),
                None => field(name),
            };
            values
                .iter()
                .any(|value| patterns.iter().any(|pattern| matches(pattern, value)))
        })
    }
}

/// `*` stands for any text, `?` for one character, a backslash takes the meaning away.
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    matches_from(&pattern, &text)
}

fn matches_from(mut pattern: &[char], mut text: &[char]) -> bool {
    // After a star: where to try again, one character later, when the rest does not fit.
    let mut again: Option<(&[char], &[char])> = None;
    loop {
        let fits = match pattern {
            ['*', rest @ ..] => {
                again = Some((rest, text));
                pattern = rest;
                continue;
            }
            [] if text.is_empty() => return true,
            ['?', rest @ ..] if !text.is_empty() => Some(rest),
            ['\\', character, rest @ ..] if text.first() == Some(character) => Some(rest),
            [character, rest @ ..] if *character != '\\' && text.first() == Some(character) => {
                Some(rest)
            }
            _ => None,
        };
        match (fits, again) {
            (Some(rest), _) => (pattern, text) = (rest, &text[1..]),
            (None, Some((rest, [_, later @ ..]))) => {
                again = Some((rest, later));
                (pattern, text) = (rest, later);
            }
            (None, _) => return false,
        }
    }
}

/// What part of a list to give.
#[derive(Debug)]
pub struct Page {
    operation: &'static str,
    max: usize,
    /// The last id of the page before.
    after: Option<String>,
}

impl Page {
    /// Takes `MaxResults` and `NextToken`. `ids_given`: with ids there are no pages.
    ///
    /// # Errors
    /// `InvalidNextToken` for a token that no answer to this operation has given.
    pub fn take(
        operation: &'static str,
        params: &mut Params,
        ids_given: bool,
    ) -> Result<Self, ApiError> {
        Self::within(operation, params, "MaxResults", ids_given, 5..=1000)
    }

    /// As [`Self::take`], with another name and other limits of the size; the upper one is the default.
    pub fn within(
        operation: &'static str,
        params: &mut Params,
        name: &str,
        ids_given: bool,
        limits: RangeInclusive<usize>,
    ) -> Result<Self, ApiError> {
        let max: Option<usize> = params.parsed(name)?;
        if ids_given && max.is_some() {
            return Err(ApiError::new(
                "InvalidParameterCombination",
                format!("The parameter {name} cannot be used with a list of ids"),
            ));
        }
        if let Some(max) = max.filter(|max| !limits.contains(max)) {
            let why = format!(
                "Expecting a value from {} to {}.",
                limits.start(),
                limits.end()
            );
            return Err(invalid_value(name, &max.to_string(), &why));
        }
        let after = params
            .take("NextToken")
            .map(|token| {
                page_token::open(operation, &token).ok_or_else(|| {
                    ApiError::new("InvalidNextToken", "The specified NextToken is not valid.")
                })
            })
            .transpose()?;
        Ok(Self {
            operation,
            max: max.unwrap_or(*limits.end()),
            after,
        })
    }

    /// As [`Self::within`], with a default below the upper limit.
    pub fn of(
        operation: &'static str,
        params: &mut Params,
        name: &str,
        default: usize,
        limits: RangeInclusive<usize>,
    ) -> Result<Self, ApiError> {
        let given: Option<usize> = params.parsed(name)?;
        params.put(name, given.unwrap_or(default));
        Self::within(operation, params, name, false, limits)
    }

    /// The part of `items`, which are sorted by `id`, and the token of the next part.
    pub fn cut<T>(&self, items: Vec<T>, id: impl Fn(&T) -> &str) -> (Vec<T>, Option<Xml>) {
        let after = self.after.as_deref().unwrap_or_default();
        let mut rest: Vec<T> = items.into_iter().filter(|item| id(item) > after).collect();
        let more = rest.len() > self.max;
        rest.truncate(self.max);
        let token = rest
            .last()
            .filter(|_| more)
            .map(|last| Xml::text(page_token::seal(self.operation, id(last))));
        (rest, token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("debian-12-*", "debian-12-amd64-local", true),
            ("*amd64*", "debian-12-amd64-local", true),
            ("*-a*l", "debian-12-amd64-local", true),
            ("debian-1?-*", "debian-11-x", true),
            ("debian-1?", "debian-1", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("", "", true),
            ("*", "", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn pages_follow_each_other() {
        let items: Vec<String> = (0..12).map(|number| format!("i-{number:02}")).collect();
        let mut params = Params::parse(b"MaxResults=5").unwrap();
        let (first, token) = Page::take("DescribeInstances", &mut params, false)
            .unwrap()
            .cut(items.clone(), |item| item);
        assert_eq!(first, items[..5]);
        let Some(Xml::Text(token)) = token else {
            panic!("there is more")
        };
        let mut params = Params::parse(format!("NextToken={token}").as_bytes()).unwrap();
        let (second, token) = Page::take("DescribeInstances", &mut params, false)
            .unwrap()
            .cut(items.clone(), |item| item);
        assert_eq!((second.as_slice(), token), (&items[5..], None));
    }
}
