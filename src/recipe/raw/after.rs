//! `roll`, `retention` and `distribution`: what is done with an image once it is baked. None of it is in the image.

use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::format::{Distribution, MAX_HEALTHY, MOST_KEPT, Retention, Roll, keys};
use crate::recipe::model::{DistributionSpec, RetentionSpec, RollSpec};
use crate::recipe::node::Node;
use crate::recipe::units;

pub fn read_roll(node: Node<'_>, found: &mut Diagnostics) -> RollSpec {
    let fields = node.fields(keys::<Roll>(), found);
    let duration = |key: &str, found: &mut Diagnostics| {
        fields
            .get(key)
            .and_then(|node| node.parsed("a duration", units::duration, found))
    };
    let max_healthy = fields.get("max_healthy").and_then(|node| {
        let percent = node.count(*MAX_HEALTHY.end(), found)?;
        if MAX_HEALTHY.contains(&percent) {
            return Some(percent);
        }
        found.push(node.diagnostic(
            format!("`{percent}` is not a limit for a roll"),
            "write a percentage from 101 to 200: a new instance comes before an old one goes",
        ));
        None
    });
    let canary_checks = fields.get("canary_checks").map(|node| {
        let mut checks = Vec::new();
        for item in node.items(found) {
            checks.extend(item.checked(
                "a shell command",
                |text| !text.trim().is_empty() && !text.contains("{{"),
                "write a command that succeeds on a good instance; it is not rendered, so it has no {{ }}",
                found,
            ));
        }
        checks
    });
    let checkpoints = fields.get("checkpoints").map(|node| {
        let mut percents: Vec<u32> = Vec::new();
        for item in node.items(found) {
            let Some(percent) = item.count(100, found) else {
                continue;
            };
            if percent == 0 || percents.last().is_some_and(|last| *last >= percent) {
                let help = "write percentages from 1 to 100, such as [25, 50]";
                found.push(item.diagnostic("checkpoints must ascend", help));
            }
            percents.push(percent);
        }
        percents
    });
    RollSpec {
        warmup: duration("warmup", found),
        max_healthy,
        canary_checks,
        checkpoints,
        checkpoint_delay: duration("checkpoint_delay", found),
    }
}

pub fn read_retention(node: Node<'_>, found: &mut Diagnostics) -> RetentionSpec {
    let fields = node.fields(keys::<Retention>(), found);
    let keep = fields.get("keep").and_then(|node| {
        let keep = node.count(MOST_KEPT, found)?;
        if keep == 0 {
            let help = "write how many of the newest images stay, at least 1";
            found.push(node.diagnostic("`0` would keep no image", help));
        }
        Some(keep)
    });
    RetentionSpec {
        keep,
        max_age: fields
            .get("max_age")
            .and_then(|node| node.parsed("an age", units::age, found)),
    }
}

pub fn read_distribution(node: Node<'_>, found: &mut Diagnostics) -> DistributionSpec {
    let fields = node.fields(keys::<Distribution>(), found);
    let list = |key: &str,
                what: &str,
                check: fn(&str) -> bool,
                help: &str,
                found: &mut Diagnostics|
     -> Option<Vec<String>> {
        let node = fields.get(key)?;
        let mut texts: Vec<String> = Vec::new();
        for item in node.items(found) {
            let Some(text) = item.checked(what, check, help, found) else {
                continue;
            };
            if texts.contains(&text) {
                found.push(
                    item.diagnostic(format!("`{text}` is listed twice"), "remove one of them"),
                );
            } else {
                texts.push(text);
            }
        }
        Some(texts)
    };
    DistributionSpec {
        regions: list(
            "regions",
            "an AWS region",
            is_region,
            "write one such as eu-west-1",
            found,
        ),
        accounts: list(
            "accounts",
            "an AWS account",
            |text| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()),
            "write its 12 digits in quotes",
            found,
        ),
    }
}

/// `eu-west-1`, `us-gov-east-1`, `ap-southeast-2`.
fn is_region(text: &str) -> bool {
    let mut parts: Vec<&str> = text.split('-').collect();
    let number = parts.pop().unwrap_or_default();
    parts.len() >= 2
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase()))
        && number.len() == 1
        && number.bytes().all(|byte| byte.is_ascii_digit())
}
