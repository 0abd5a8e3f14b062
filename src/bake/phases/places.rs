//! Where machines are launched: the types and subnets of a recipe, until EC2 has room.

use std::fmt;

use super::super::event::Resource;
use super::super::run::Run;
use crate::recipe::model::BuildSpec;

/// A type of machine in a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<'p> {
    pub instance_type: &'p str,
    /// `None`: EC2 chooses one of the default VPC.
    pub subnet: Option<&'p str>,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.instance_type)?;
        match self.subnet {
            Some(subnet) => write!(f, " in {subnet}"),
            None => Ok(()),
        }
    }
}

/// All of them, in the order in which they are tried: a type in all subnets, then the next type.
fn places(build: &BuildSpec) -> Vec<Place<'_>> {
    let mut all = Vec::new();
    for instance_type in &build.instance_types {
        let within = |subnet| Place {
            instance_type,
            subnet,
        };
        let subnets = build.subnets.iter().map(|subnet| within(Some(subnet)));
        let subnets: Vec<Place<'_>> = subnets.collect();
        if subnets.is_empty() {
            all.push(within(None));
        }
        all.extend(subnets);
    }
    all
}

/// One of the places for a machine, and the token of its launch there: a token stands for one request with all its
/// parameters.
pub(super) struct Attempt<'p> {
    pub place: Place<'p>,
    pub token: String,
}

/// The places for a machine of a run. A process that goes on with a run asks first where the one before it may have
/// launched already.
pub(super) fn attempts<'p>(run: &Run<'p>, kind: Resource, machine: &str) -> Vec<Attempt<'p>> {
    let plan = run.plan;
    let all = places(&plan.build).into_iter().map(|place| Attempt {
        place,
        token: run.token(&format!("{machine} {place}")),
    });
    let mut all: Vec<Attempt<'p>> = all.collect();
    all.sort_by_key(|attempt| run.standing(kind, &attempt.token).is_none());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(types: &[&str], subnets: &[&str]) -> Vec<String> {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let build = BuildSpec {
            instance_types: owned(types),
            subnets: owned(subnets),
            ..BuildSpec::default()
        };
        places(&build).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_type_is_tried_in_all_subnets_before_the_next_one() {
        assert_eq!(told(&["a.b"], &[]), ["a.b"]);
        assert_eq!(told(&["a.b", "c.d"], &[]), ["a.b", "c.d"]);
        assert_eq!(
            told(&["a.b", "c.d"], &["subnet-1", "subnet-2"]),
            [
                "a.b in subnet-1",
                "a.b in subnet-2",
                "c.d in subnet-1",
                "c.d in subnet-2"
            ]
        );
    }
}
