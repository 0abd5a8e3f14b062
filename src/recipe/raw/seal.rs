//! `seal`: paths that the image must not have, or may.

use super::is_one_line;
use crate::image::leaks::{self, Action, Pattern, Sealed};
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::format::{Seal, SealAction, keys};
use crate::recipe::model::SealSpec;
use crate::recipe::node::Node;
use crate::recipe::twice::{REMOVE_ONE, listed_twice};

pub fn read_seal(nodes: Vec<Node<'_>>, found: &mut Diagnostics) -> Vec<SealSpec> {
    let mut all: Vec<SealSpec> = Vec::new();
    for node in nodes {
        let Some(spec) = read_one(node, found) else {
            continue;
        };
        if all.iter().any(|one| one.sealed.path == spec.sealed.path) {
            found.push(node.diagnostic(listed_twice(&spec.sealed.path), REMOVE_ONE));
        } else {
            all.push(spec);
        }
    }
    all
}

fn read_one(node: Node<'_>, found: &mut Diagnostics) -> Option<SealSpec> {
    let fields = node.fields(keys::<Seal>(), found);
    let help = "write an absolute path of two names or more, of letters, digits and `._+@:=~%-`, without `.` or `..` and \
                without a slash at its end; `*` and `?` stand for what else a name has, but not in the first one";
    let path = fields.require("path", "write `path:` with the place on the machine", found);
    let path = path.and_then(|node| {
        let text = node.checked("a path to seal", is_sealed_path, help, found)?;
        Some((node, text))
    });
    let help = format!("choose from: {}", keys::<SealAction>().join(", "));
    let action = fields.require("action", &help, found).and_then(|node| {
        let parse = |word: &str| match word {
            "gone" => Ok(Action::Gone),
            "empty" => Ok(Action::Empty),
            "keep" => Ok(Action::Keep),
            _ => Err(help.clone()),
        };
        node.parsed("an action", parse, found)
    });
    let why = "say in one line why every machine may have the same";
    let reason = match fields.get("reason") {
        Some(node) => Some(node.checked("a reason", is_one_line, why, found)?),
        None if action == Some(Action::Keep) => {
            fields.require("reason", why, found)?;
            None
        }
        None => None,
    };
    let ((place, path), action) = (path?, action?);
    judge(&place, &path, action, found)?;
    Some(SealSpec {
        sealed: Sealed { path, action },
        reason,
        at: node.location(),
    })
}

/// Whether the path may be treated so, by the table of known leaks.
fn judge(node: &Node<'_>, path: &str, action: Action, found: &mut Diagnostics) -> Option<()> {
    let pattern = Pattern::new(path);
    let refused = |leak: &&leaks::Leak| leak.action == Action::Refused;
    if action == Action::Keep {
        let mut refused = leaks::table().iter().filter(refused);
        if refused.any(|leak| leak.pattern.overlaps(&pattern)) {
            return Some(());
        }
        found.push(node.diagnostic(
            format!("nothing refuses `{path}`, so there is nothing to keep"),
            "remove it; `piaas-bake leaks` shows what is refused, and what is removed from every image",
        ));
        return None;
    }
    let cleaned = |leak: &&leaks::Leak| {
        !matches!(leak.action, Action::Refused | Action::Written)
            && leak.pattern.matches(path.as_bytes())
    };
    let Some(leak) = leaks::table().iter().find(cleaned) else {
        return Some(());
    };
    found.push(node.diagnostic(
        format!(
            "`{path}` is cleaned in every image (`{}`: {})",
            leak.action.word(),
            leak.why
        ),
        "remove it; `piaas-bake leaks` shows what is done about which path",
    ));
    None
}

/// What [`crate::recipe::format::SealedPath`] says.
fn is_sealed_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let names: Vec<&str> = rest.split('/').collect();
    path.len() < 4096
        && path.chars().all(leaks::is_plain)
        && names.len() > 1
        && !names[0].contains(['*', '?'])
        && names.iter().all(|name| !matches!(*name, "" | "." | ".."))
}
