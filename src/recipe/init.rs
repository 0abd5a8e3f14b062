//! A first recipe.

use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::{load, raw};

/// Writes `recipes/<name>/recipe.yaml`: commented, and baking as it is. Gives the path.
///
/// # Errors
/// A bad name, a recipe that is there already, an unknown parent, or a directory that cannot be written.
pub fn init(recipes: &Path, name: &str, from: Option<&str>) -> Result<PathBuf, Diagnostics> {
    let fail = |message: String, help: &str| {
        Diagnostics::from(Diagnostic::general(None, message).help(help))
    };
    if !raw::is_name(name) {
        return Err(fail(
            format!("`{name}` is not a recipe name"),
            "use lower case letters, digits and single hyphens, such as `ci-worker`",
        ));
    }
    let from = match from {
        None => "  ssm: /aws/service/debian/release/12/latest/amd64".to_owned(),
        Some(parent) => {
            let parent = load::load(recipes, parent, &[])?;
            format!("  recipe: {}\n  version: ^{}", parent.name, parent.version)
        }
    };
    let dir = recipes.join(name);
    let path = dir.join("recipe.yaml");
    let text = TEMPLATE.replace("NAME", name).replace("FROM", &from);
    std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::File::create_new(&path))
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|error| {
            let help = match error.kind() {
                std::io::ErrorKind::AlreadyExists => "choose another name, or edit that recipe",
                _ => "check the directory, or pass --recipes DIR",
            };
            fail(format!("cannot write {}: {error}", path.display()), help)
        })?;
    Ok(path)
}

const TEMPLATE: &str = "\
schema: piaas-bake/v1
name: NAME
version: 0.1.0
description: What this image is for.
from: # a parent recipe, an SSM parameter, an AMI id, a filter or an Image Builder ARN
FROM
parameters:
  greeting: { type: string, default: Hello, description: Shown when somebody logs in. }
packages: [jq]
steps:
  - name: Greet
    run: printf '%s\\n' {{ greeting }} > /etc/motd # a value is always one quoted word
validate: # on the builder
  - name: The package is installed
    run: jq --version
test: # on an instance booted from the new image
  - name: The machine is up
    run: systemctl is-system-running --wait
";
