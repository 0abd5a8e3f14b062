//! Parameters of the query protocols: `Filter.1.Value.2=x` in a form body.
//!
//! An operation takes the parameters it knows; what is left over is refused by name.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::error::ApiError;

/// The parameters of one request that nobody has taken yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads a form body.
    ///
    /// # Errors
    /// `InvalidParameterCombination` for a parameter given twice.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut params = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            if params
                .insert(name.clone().into_owned(), value.into_owned())
                .is_some()
            {
                return Err(ApiError::new(
                    "InvalidParameterCombination",
                    format!("The parameter {name} is given more than once"),
                ));
            }
        }
        Ok(Self(params))
    }

    /// Takes a parameter.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Puts a parameter in the place of what is there.
    pub fn put(&mut self, name: &str, value: impl ToString) {
        self.0.insert(name.to_owned(), value.to_string());
    }

    /// Takes a parameter that must be there.
    ///
    /// # Errors
    /// `MissingParameter`.
    pub fn require(&mut self, name: &str) -> Result<String, ApiError> {
        self.take(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| {
                ApiError::new(
                    "MissingParameter",
                    format!("The request must contain the parameter {name}"),
                )
            })
    }

    /// Takes a number or a boolean.
    ///
    /// # Errors
    /// `InvalidParameterValue` if it is not one.
    pub fn parsed<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        self.take(name)
            .map(|value| {
                value.parse().map_err(|_| {
                    ApiError::new(
                        "InvalidParameterValue",
                        format!("Value ({value}) for parameter {name} is invalid."),
                    )
                })
            })
            .transpose()
    }

    /// Takes a boolean that is false when absent.
    ///
    /// # Errors
    /// `InvalidParameterValue` if it is neither `true` nor `false`.
    pub fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        Ok(self.parsed(name)?.unwrap_or(false))
    }

    /// Takes a list of texts: `name.1`, `name.2`, … in the order of their numbers.
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        self.numbers(name)
            .into_iter()
            .filter_map(|number| self.take(&format!("{name}.{number}")))
            .collect()
    }

    /// Takes a list of structures: the parameters below `name.1`, `name.2`, …
    pub fn structures(&mut self, name: &str) -> Vec<Self> {
        self.numbers(name)
            .into_iter()
            .map(|number| self.structure(&format!("{name}.{number}")))
            .collect()
    }

    /// Takes a structure: the parameters below `name.`, without that prefix.
    #[must_use]
    pub fn structure(&mut self, name: &str) -> Self {
        let prefix = format!("{name}.");
        let keys: Vec<_> = self
            .0
            .keys()
            .filter(|key| key.starts_with(&prefix))
            .cloned()
            .collect();
        let entries = keys.into_iter().filter_map(|key| {
            let value = self.0.remove(&key)?;
            Some((key[prefix.len()..].to_owned(), value))
        });
        Self(entries.collect())
    }

    /// All that is left, by name.
    #[must_use]
    pub fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }

    /// Adds `others`, parameter by parameter of the top level: one that is here already, or has members or elements
    /// here, stays as it is.
    pub fn inherit(&mut self, others: &BTreeMap<String, String>) {
        let top = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        let given: BTreeSet<String> = self.0.keys().map(|name| top(name)).collect();
        for (name, value) in others {
            if !given.contains(&top(name)) {
                self.0.insert(name.clone(), value.clone());
            }
        }
    }

    fn numbers(&self, name: &str) -> BTreeSet<u32> {
        let prefix = format!("{name}.");
        let rests = self.0.keys().filter_map(|key| key.strip_prefix(&prefix));
        rests
            .filter_map(|rest| rest.split('.').next()?.parse().ok())
            .collect()
    }

    /// Ends the taking; `within` is the path of a structure, empty for the request itself.
    ///
    /// # Errors
    /// `UnknownParameter` that names the first parameter left.
    pub fn finish(&self, within: &str) -> Result<(), ApiError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) if within.is_empty() => Err(unknown(name)),
            Some(name) => Err(unknown(&format!("{within}.{name}"))),
        }
    }
}

impl From<BTreeMap<String, String>> for Params {
    fn from(params: BTreeMap<String, String>) -> Self {
        Self(params)
    }
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(
        "UnknownParameter",
        format!("The parameter {name} is not recognized"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_structures_are_taken_in_order_and_the_rest_is_named() {
        let mut params = Params::parse(
            b"Filter.2.Name=b&Filter.1.Name=a&Filter.1.Value.1=x&Filter.1.Value.2=y+z&InstanceId.10=k&InstanceId.9=j&Odd=1",
        )
        .unwrap();
        let mut filters = params.structures("Filter");
        assert_eq!(filters.len(), 2);
        assert_eq!(filters[0].take("Name").as_deref(), Some("a"));
        assert_eq!(filters[0].texts("Value"), ["x", "y z"]);
        assert_eq!(params.texts("InstanceId"), ["j", "k"]);
        let error = params.finish("").unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("UnknownParameter", "The parameter Odd is not recognized")
        );
        params.take("Odd");
        params.finish("").unwrap();
    }

    #[test]
    fn what_is_given_hides_what_is_inherited_as_a_whole() {
        let mut params =
            Params::parse(b"ImageId=ami-1&TagSpecification.1.ResourceType=instance").unwrap();
        let template = Params::parse(
            b"ImageId=ami-2&InstanceType=t3.large&TagSpecification.1.ResourceType=volume&TagSpecification.2.ResourceType=instance",
        );
        params.inherit(&template.unwrap().into_map());
        let expected = Params::parse(
            b"ImageId=ami-1&InstanceType=t3.large&TagSpecification.1.ResourceType=instance",
        );
        assert_eq!(params, expected.unwrap());
    }

    #[test]
    fn a_number_that_is_none_is_refused() {
        let mut params = Params::parse(b"MaxResults=ten").unwrap();
        assert_eq!(
            params.parsed::<u32>("MaxResults").unwrap_err().code,
            "InvalidParameterValue"
        );
    }
}
