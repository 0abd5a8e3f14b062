//! Instance types: a small table of true facts (EC2, "Instance types", general purpose and compute optimized).

use super::super::engine::Call;
use super::super::state::Tags;
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::filters::{Filters, Page};

/// Size of the base image's volume in GiB, as Debian's own images have it.
pub const BASE_SIZE: u64 = 8;

/// An instance type.
#[derive(Debug, Clone, Copy)]
pub struct InstanceType {
    pub name: &'static str,
    pub vcpus: u32,
    pub memory_mib: u32,
    /// vCPUs are hyperthreads, two to a core.
    pub cores: u32,
    pub burstable: bool,
}

const fn kind(name: &'static str, vcpus: u32, gib: u32, burstable: bool) -> InstanceType {
    InstanceType {
        name,
        vcpus,
        memory_mib: gib * 1024,
        cores: if vcpus > 1 { vcpus / 2 } else { 1 },
        burstable,
    }
}

/// `x86_64` types that a fleet of CI workers uses.
const TYPES: &[InstanceType] = &[
    kind("c5.2xlarge", 8, 16, false),
    kind("c5.large", 2, 4, false),
    kind("c5.xlarge", 4, 8, false),
    kind("c6i.2xlarge", 8, 16, false),
    kind("c6i.large", 2, 4, false),
    kind("c6i.xlarge", 4, 8, false),
    // One vCPU, a whole core.
    kind("c7a.medium", 1, 2, false),
    kind("m5.2xlarge", 8, 32, false),
    kind("m5.large", 2, 8, false),
    kind("m5.xlarge", 4, 16, false),
    kind("m6i.2xlarge", 8, 32, false),
    kind("m6i.large", 2, 8, false),
    kind("m6i.xlarge", 4, 16, false),
    kind("m7a.medium", 1, 4, false),
    kind("t3.2xlarge", 8, 32, true),
    kind("t3.large", 2, 8, true),
    kind("t3.medium", 2, 4, true),
    kind("t3.micro", 2, 1, true),
    kind("t3.small", 2, 2, true),
    kind("t3.xlarge", 4, 16, true),
];

/// A type by name.
///
/// # Errors
/// `InvalidParameterValue`, as `RunInstances` gives it.
pub fn find(name: &str) -> Result<&'static InstanceType, ApiError> {
    TYPES.iter().find(|kind| kind.name == name).ok_or_else(|| {
        ApiError::new(
            "InvalidParameterValue",
            format!("Invalid value '{name}' for InstanceType."),
        )
    })
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let names = params.texts("InstanceType");
    let filters = Filters::take(
        &mut params,
        &[
            "instance-type",
            "current-generation",
            "burstable-performance-supported",
            "vcpu-info.default-vcpus",
        ],
    )?;
    let page = Page::within(
        "DescribeInstanceTypes",
        &mut params,
        "MaxResults",
        !names.is_empty(),
        5..=100,
    )?;
    call.accept(&params)?;
    if let Some(unknown) = names.iter().find(|name| find(name).is_err()) {
        return Err(ApiError::new(
            "InvalidInstanceType",
            format!("The following supplied instance types do not exist: [{unknown}]"),
        ));
    }
    let wanted = TYPES.iter().filter(|kind| {
        (names.is_empty() || names.iter().any(|name| name == kind.name))
            && filters.matches(&Tags::new(), |field| {
                vec![match field {
                    "instance-type" => kind.name.to_owned(),
                    "current-generation" => true.to_string(),
                    "burstable-performance-supported" => kind.burstable.to_string(),
                    _ => kind.vcpus.to_string(),
                }]
            })
    });
    let (kinds, token) = page.cut(wanted.collect(), |kind| kind.name);
    let set = Xml::list(kinds.into_iter().map(|kind| {
        let strings = |values: &[&str]| Xml::list(values.iter().map(Xml::text));
        Xml::children([
            ("instanceType", Xml::text(kind.name)),
            ("currentGeneration", Xml::text(true)),
            ("supportedUsageClasses", strings(&["on-demand", "spot"])),
            ("supportedRootDeviceTypes", strings(&["ebs"])),
            ("supportedVirtualizationTypes", strings(&["hvm"])),
            ("bareMetal", Xml::text(false)),
            ("hypervisor", Xml::text("nitro")),
            (
                "processorInfo",
                Xml::children([("supportedArchitectures", strings(&["x86_64"]))]),
            ),
            (
                "vCpuInfo",
                Xml::children([
                    ("defaultVCpus", Xml::text(kind.vcpus)),
                    ("defaultCores", Xml::text(kind.cores)),
                ]),
            ),
            (
                "memoryInfo",
                Xml::children([("sizeInMiB", Xml::text(kind.memory_mib))]),
            ),
            ("instanceStorageSupported", Xml::text(false)),
            ("burstablePerformanceSupported", Xml::text(kind.burstable)),
            ("supportedBootModes", strings(&["legacy-bios", "uefi"])),
        ])
    }));
    Ok(Xml::children([("instanceTypeSet", set)]).with_some("nextToken", token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_for_its_pages() {
        assert!(TYPES.is_sorted_by(|a, b| a.name < b.name));
    }
}
