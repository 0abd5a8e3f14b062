//! The images that are ours: found by their tags, their manifests read back.

use std::collections::BTreeMap;
use std::io::Read as _;

use aws_sdk_ec2::types::Filter;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;

use super::names::{Channel, manifest_parameter, packages_parameter};
use super::packages::Record;
use crate::aws::error::Context as _;
use crate::aws::{Clients, Error, tags};

/// An image as the bake sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Image {
    pub id: String,
    pub name: String,
    /// Account id of the owner.
    pub owner: String,
    /// `pending`, `available`, `failed`, … as `DescribeImages` gives it.
    pub state: String,
    /// Why it failed, if it did.
    pub state_reason: Option<String>,
    /// When it was created, RFC 3339, as EC2 gives it.
    pub created: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// `uefi`, `uefi-preferred`, `legacy-bios`; empty if the image does not say.
    pub boot_mode: String,
    /// Device name of the root volume.
    pub root_device: String,
    /// Device names of its other volumes.
    pub more_devices: Vec<String>,
    /// Size of the root volume in GiB.
    pub size_gib: u32,
    /// Snapshots behind its volumes.
    pub snapshots: Vec<String>,
    pub tags: tags::Tags,
}

impl Image {
    /// One of our tags.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.get(key).map(String::as_str)
    }

    /// The digest it was baked for.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.tag(tags::DIGEST)
    }

    /// Whether it is complete, tested and usable.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == "available" && self.tag(tags::STATUS) == Some(tags::STATUS_READY)
    }

    pub(crate) fn read(image: &aws_sdk_ec2::types::Image) -> Self {
        let root_device = image.root_device_name().unwrap_or_default().to_owned();
        let mappings = image.block_device_mappings();
        let size = mappings
            .iter()
            .find(|mapping| mapping.device_name() == Some(root_device.as_str()))
            .and_then(|mapping| mapping.ebs()?.volume_size());
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let volumes = mappings.iter().filter(|mapping| mapping.ebs().is_some());
        let devices = volumes.filter_map(|mapping| mapping.device_name().map(str::to_owned));
        Self {
            id: text(image.image_id()),
            name: text(image.name()),
            owner: text(image.owner_id()),
            state: text(image.state().map(aws_sdk_ec2::types::ImageState::as_str)),
            state_reason: image
                .state_reason()
                .and_then(|reason| reason.message())
                .map(str::to_owned),
            created: text(image.creation_date()),
            architecture: text(
                image
                    .architecture()
                    .map(aws_sdk_ec2::types::ArchitectureValues::as_str),
            ),
            boot_mode: text(
                image
                    .boot_mode()
                    .map(aws_sdk_ec2::types::BootModeValues::as_str),
            ),
            more_devices: devices.filter(|device| *device != root_device).collect(),
            root_device,
            size_gib: size.and_then(|size| u32::try_from(size).ok()).unwrap_or(0),
            snapshots: mappings
                .iter()
                .filter_map(|mapping| mapping.ebs()?.snapshot_id().map(str::to_owned))
                .collect(),
            tags: tags::from_ec2(image.tags()),
        }
    }
}

/// A filter of the `Describe…` calls.
pub(super) fn filter(name: impl Into<String>, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder()
        .name(name)
        .set_values(Some(values.into_iter().collect()))
        .build()
}

/// Images that match, newest first.
pub(super) async fn describe(
    clients: &Clients,
    owners: &[String],
    filters: Vec<Filter>,
) -> Result<Vec<Image>, Error> {
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let page = clients
            .ec2
            .describe_images()
            .set_owners(Some(owners.to_vec()))
            .set_filters(Some(filters.clone()))
            .set_next_token(token)
            .send()
            .await
            .call("ec2", "DescribeImages")?;
        found.extend(page.images().iter().map(Image::read));
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    // RFC 3339 in UTC: the order of the text is the order of time. Ids break ties, so the result is the same twice.
    found.sort_by(|a, b| (&b.created, &b.id).cmp(&(&a.created, &a.id)));
    Ok(found)
}

/// The image of this name that a run created, if it did.
pub(super) async fn of_run(clients: &Clients, name: &str, run: &str) -> Result<Vec<Image>, Error> {
    let filters = vec![
        filter("name", [name.to_owned()]),
        filter(format!("tag:{}", tags::RUN), [run.to_owned()]),
    ];
    describe(clients, &["self".to_owned()], filters).await
}

/// Images of this account, finished or not, that have this name.
pub(super) async fn named(clients: &Clients, name: &str) -> Result<Vec<Image>, Error> {
    let filters = vec![filter("name", [name.to_owned()])];
    describe(clients, &["self".to_owned()], filters).await
}

/// Images of this account, finished or not, that were made for a digest.
pub(crate) async fn of_digest(clients: &Clients, digest: &str) -> Result<Vec<Image>, Error> {
    let filters = vec![filter(format!("tag:{}", tags::DIGEST), [digest.to_owned()])];
    describe(clients, &["self".to_owned()], filters).await
}

/// One image, whoever owns it; `None` if it does not exist.
///
/// # Errors
/// [`Error`] of `DescribeImages`.
pub async fn get(clients: &Clients, id: &str) -> Result<Option<Image>, Error> {
    let answer = clients
        .ec2
        .describe_images()
        .image_ids(id)
        .send()
        .await
        .call("ec2", "DescribeImages");
    match answer {
        Ok(page) => Ok(page.images().first().map(Image::read)),
        Err(error) if error.kind == crate::aws::Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All images of this account that a bake made, newest first; of one recipe if a name is given.
///
/// # Errors
/// [`Error`] of `DescribeImages`.
pub async fn list(clients: &Clients, recipe: Option<&str>) -> Result<Vec<Image>, Error> {
    let mut filters = vec![filter("tag-key", [tags::DIGEST.to_owned()])];
    if let Some(recipe) = recipe {
        filters.push(filter(format!("tag:{}", tags::RECIPE), [recipe.to_owned()]));
    }
    describe(clients, &["self".to_owned()], filters).await
}

/// The images that a word can mean: an image id, a name, or a digest (or the beginning of one, six digits or more).
///
/// # Errors
/// [`Error`] of `DescribeImages`.
pub async fn find(clients: &Clients, word: &str) -> Result<Vec<Image>, Error> {
    let all = list(clients, None).await?;
    Ok(all.into_iter().filter(|image| means(image, word)).collect())
}

fn means(image: &Image, word: &str) -> bool {
    let is_digest =
        (6..=64).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    image.id == word
        || image.name == word
        || (is_digest
            && image
                .digest()
                .is_some_and(|digest| digest.starts_with(word)))
}

/// Characters in one part of a manifest: what a standard parameter holds (SSM quotas, "Standard parameter value size").
const PART: usize = 4096;
/// Parts of one manifest: what one `GetParameters` call takes.
pub(super) const PARTS: usize = 10;

/// Names and values of the parameters that hold a text: gzip, base64, cut into parts named `<name>`, `<name>.2`,
/// `<name>.3`, … `None` if it is too large for ten parts.
#[must_use]
pub fn parts(name: &str, text: &str) -> Option<Vec<(String, String)>> {
    let mut gzip = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).ok()?;
    let text = STANDARD.encode(gzip.finish().ok()?);
    let count = text.len().div_ceil(PART);
    (count <= PARTS).then(|| {
        (0..count)
            .map(|index| {
                let end = text.len().min((index + 1) * PART);
                (part_name(name, index), text[index * PART..end].to_owned())
            })
            .collect()
    })
}

pub(super) fn part_name(name: &str, index: usize) -> String {
    if index == 0 {
        name.to_owned()
    } else {
        format!("{name}.{}", index + 1)
    }
}

/// The canonical manifest of a digest, as it was when its image was baked; `None` if there is none.
///
/// # Errors
/// [`Error`] of `GetParameters`, also for a manifest that cannot be unpacked.
pub async fn manifest(clients: &Clients, digest: &str) -> Result<Option<String>, Error> {
    stored(clients, &manifest_parameter(digest)).await
}

/// What was installed into an image; `None` if that was not noted, or by another version of this program.
///
/// # Errors
/// [`Error`] of `GetParameters`, also for a text that cannot be unpacked.
pub async fn packages(clients: &Clients, image: &str) -> Result<Option<Record>, Error> {
    let text = stored(clients, &packages_parameter(image)).await?;
    Ok(text.and_then(|text| Record::from_json(&text)))
}

/// The ids of the images that the channels of a recipe name, whether these images exist or not.
///
/// # Errors
/// [`Error`] of `GetParameters`.
pub async fn channels(clients: &Clients, recipe: &str) -> Result<BTreeMap<Channel, String>, Error> {
    let names = Channel::ALL.map(|channel| channel.parameter(recipe));
    let answer = clients
        .ssm
        .get_parameters()
        .set_names(Some(names.to_vec()))
        .send()
        .await
        .call("ssm", "GetParameters")?;
    let value = |channel: Channel| {
        let name = channel.parameter(recipe);
        answer
            .parameters()
            .iter()
            .find(|parameter| parameter.name() == Some(name.as_str()))
            .and_then(|parameter| Some((channel, parameter.value()?.to_owned())))
    };
    Ok(Channel::ALL.into_iter().filter_map(value).collect())
}

async fn stored(clients: &Clients, name: &str) -> Result<Option<String>, Error> {
    let names: Vec<String> = (0..PARTS).map(|index| part_name(name, index)).collect();
    let answer = clients
        .ssm
        .get_parameters()
        .set_names(Some(names.clone()))
        .send()
        .await
        .call("ssm", "GetParameters")?;
    let value = |name: &String| {
        answer
            .parameters()
            .iter()
            .find(|parameter| parameter.name() == Some(name))
            .and_then(|p| p.value())
    };
    let text: String = names.iter().map_while(value).collect();
    if text.is_empty() {
        return Ok(None);
    }
    unpack(&text).map(Some).ok_or_else(|| {
        Error::incomplete("ssm", "GetParameters", &format!("readable text in {name}"))
    })
}

fn unpack(text: &str) -> Option<String> {
    let packed = STANDARD.decode(text).ok()?;
    let mut manifest = String::new();
    GzDecoder::new(packed.as_slice())
        .read_to_string(&mut manifest)
        .ok()?;
    Some(manifest)
}

#[cfg(test)]
pub(crate) use tests::image as sample;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn image(id: &str, name: &str, tags: &[(&str, &str)]) -> Image {
        Image {
            id: id.into(),
            name: name.into(),
            owner: "123456789012".into(),
            state: "available".into(),
            state_reason: None,
            created: "2026-01-01T00:00:00.000Z".into(),
            architecture: "x86_64".into(),
            boot_mode: "uefi".into(),
            root_device: "/dev/xvda".into(),
            more_devices: Vec::new(),
            size_gib: 8,
            snapshots: vec![],
            tags: tags
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_manifest_comes_back_from_its_parts() {
        // Text that gzip cannot shrink below one part.
        let manifest: String = (0..4000u32)
            .map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761)))
            .collect();
        let parts = super::parts(&manifest_parameter("d"), &manifest).unwrap();
        assert!(parts.len() > 1);
        assert!(parts.iter().all(|(_, value)| value.len() <= PART));
        assert_eq!(parts[0].0, "/piaas-bake/manifests/d");
        assert_eq!(parts[1].0, "/piaas-bake/manifests/d.2");
        let text: String = parts.into_iter().map(|(_, value)| value).collect();
        assert_eq!(unpack(&text).unwrap(), manifest);
    }

    #[test]
    fn a_word_means_an_id_a_name_or_the_start_of_a_digest() {
        let one = image(
            "ami-1",
            "web-1.0.0-abcdefabcdef",
            &[(tags::DIGEST, "abcdefabcdef00")],
        );
        for word in [
            "ami-1",
            "web-1.0.0-abcdefabcdef",
            "abcdef",
            "abcdefabcdef00",
        ] {
            assert!(means(&one, word), "{word}");
        }
        for word in ["ami-2", "web", "abc", "abcdee", ""] {
            assert!(!means(&one, word), "{word}");
        }
    }

    #[test]
    fn only_tested_and_available_is_ready() {
        let mut one = image("ami-1", "n", &[(tags::STATUS, tags::STATUS_READY)]);
        assert!(one.is_ready());
        one.state = "pending".into();
        assert!(!one.is_ready());
        assert!(!image("ami-1", "n", &[(tags::STATUS, tags::STATUS_TESTING)]).is_ready());
    }
}
