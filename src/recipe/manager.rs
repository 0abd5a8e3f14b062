//! Which package manager a base has, and the list of packages that is meant for it.

use super::diagnostic::Diagnostics;
use super::model::{BaseRef, Manager, PackageSpec};
use super::raw::{Place, RawPackages};

/// The package manager of a base, where its name tells: public SSM parameters are named after their distributions
/// (Systems Manager User Guide, "Discovering public parameters").
fn of_base(base: &BaseRef) -> Option<(Manager, &str)> {
    let BaseRef::Ssm { parameter } = base else {
        return None;
    };
    let manager = [
        ("/aws/service/debian/", Manager::Apt),
        ("/aws/service/canonical/", Manager::Apt),
        ("/aws/service/ami-amazon-linux-latest/", Manager::Dnf),
    ]
    .into_iter()
    .find(|(prefix, _)| parameter.starts_with(prefix));
    manager.map(|(_, manager)| (manager, parameter.as_str()))
}

/// The list for the base of the line. A base that does not tell has the manager that the recipe has a list for.
pub fn choose(
    packages: RawPackages,
    base: &BaseRef,
    found: &mut Diagnostics,
) -> (Manager, Vec<PackageSpec>) {
    let of_base = of_base(base);
    let manager = match (of_base, &packages.apt, &packages.dnf) {
        (Some((manager, _)), ..) => manager,
        (None, Some(_), Some((at, _))) => {
            found.push(at.diagnostic(
                "the base does not tell whether it has apt or dnf",
                "keep one of the lists: only public parameters such as /aws/service/debian/… name their distribution",
            ));
            Manager::Dnf
        }
        (None, _, Some(_)) => Manager::Dnf,
        (None, _, None) => Manager::Apt,
    };
    let (list, other): (_, Option<(Place, Vec<PackageSpec>)>) = match manager {
        Manager::Apt => (packages.apt, packages.dnf),
        Manager::Dnf => (packages.dnf, packages.apt),
    };
    match (list, other) {
        (Some((_, list)), _) => (manager, list),
        (None, Some((at, others))) if !others.is_empty() => {
            let parameter = of_base.map_or("", |(_, parameter)| parameter);
            found.push(at.diagnostic(
                format!(
                    "the line stands on `{parameter}`, which installs with {}; there is no list for it",
                    manager.name()
                ),
                format!("list the packages under `packages: {{ {}: [] }}`", manager.name()),
            ));
            (manager, others)
        }
        (None, _) => (manager, Vec::new()),
    }
}
