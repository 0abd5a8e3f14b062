//! From what a recipe says its line stands on to one image.

use super::images::{self, Image, filter};
use crate::aws::error::Context as _;
use crate::aws::{Clients, Error, Kind};
use crate::recipe::model::BaseRef;

/// There is no such base image.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error(transparent)]
    Cloud(#[from] Error),
    #[error("the base image {id} does not exist in {region}; image ids differ between regions")]
    NoImage { id: String, region: String },
    #[error("the SSM parameter {name} does not exist in {region}; check its name and the region")]
    NoParameter { name: String, region: String },
    #[error("the SSM parameter {name} holds `{value}`, which is not an image id")]
    NotAnImage { name: String, value: String },
    #[error(
        "no image of {architecture} in {region} matches the filter; loosen it, or check its owners"
    )]
    NoMatch {
        architecture: String,
        region: String,
    },
    #[error("the Image Builder image {arn} has no image in {region}; distribute it there first")]
    NotDistributed { arn: String, region: String },
    #[error("the base image {id} is {state}, not available")]
    NotAvailable { id: String, state: String },
    #[error(
        "the base image {id} is made for {found}; the recipe wants {wanted} (image.architecture)"
    )]
    Architecture {
        id: String,
        found: String,
        wanted: String,
    },
}

/// Finds the image that `base` means now. Of several matches of a filter the newest is taken.
///
/// # Errors
/// [`BaseError`]: the cloud refused, or there is no such image, or it does not fit `architecture`.
pub async fn resolve(
    clients: &Clients,
    base: &BaseRef,
    architecture: &str,
) -> Result<Image, BaseError> {
    let region = || clients.region.clone();
    let image = match base {
        BaseRef::Filter { owners, filters } => {
            let mut filters: Vec<_> = filters
                .iter()
                .map(|(name, values)| filter(name.clone(), values.clone()))
                .collect();
            filters.push(filter("architecture", [architecture.to_owned()]));
            filters.push(filter("state", ["available".to_owned()]));
            images::describe(clients, owners, filters)
                .await?
                .into_iter()
                .next()
                .ok_or_else(|| BaseError::NoMatch {
                    architecture: architecture.to_owned(),
                    region: region(),
                })?
        }
        BaseRef::Ami { id } => by_id(clients, id).await?,
        BaseRef::Ssm { parameter } => {
            by_id(clients, &from_parameter(clients, parameter).await?).await?
        }
        BaseRef::ImageBuilder { arn } => {
            by_id(clients, &from_image_builder(clients, arn).await?).await?
        }
    };
    check(image, architecture)
}

fn check(image: Image, architecture: &str) -> Result<Image, BaseError> {
    if image.state != "available" {
        return Err(BaseError::NotAvailable {
            id: image.id,
            state: image.state,
        });
    }
    if image.architecture != architecture {
        return Err(BaseError::Architecture {
            id: image.id,
            found: image.architecture,
            wanted: architecture.to_owned(),
        });
    }
    Ok(image)
}

async fn by_id(clients: &Clients, id: &str) -> Result<Image, BaseError> {
    images::get(clients, id)
        .await?
        .ok_or_else(|| BaseError::NoImage {
            id: id.to_owned(),
            region: clients.region.clone(),
        })
}

async fn from_parameter(clients: &Clients, name: &str) -> Result<String, BaseError> {
    let value = match parameter(clients, name).await? {
        Some(value) => value,
        None => {
            return Err(BaseError::NoParameter {
                name: name.to_owned(),
                region: clients.region.clone(),
            });
        }
    };
    if value.starts_with("ami-") {
        Ok(value)
    } else {
        Err(BaseError::NotAnImage {
            name: name.to_owned(),
            value,
        })
    }
}

/// The value of an SSM parameter; `None` if it does not exist.
pub(super) async fn parameter(clients: &Clients, name: &str) -> Result<Option<String>, Error> {
    let answer = clients
        .ssm
        .get_parameter()
        .name(name)
        .send()
        .await
        .call("ssm", "GetParameter");
    match answer {
        Ok(answer) => Ok(answer.parameter.and_then(|parameter| parameter.value)),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn from_image_builder(clients: &Clients, arn: &str) -> Result<String, BaseError> {
    let answer = clients
        .imagebuilder
        .get_image()
        .image_build_version_arn(arn)
        .send()
        .await
        .call("imagebuilder", "GetImage")?;
    let amis = answer
        .image
        .and_then(|image| image.output_resources)
        .and_then(|output| output.amis);
    amis.unwrap_or_default()
        .into_iter()
        .find(|ami| ami.region() == Some(clients.region.as_str()))
        .and_then(|ami| ami.image)
        .ok_or_else(|| BaseError::NotDistributed {
            arn: arn.to_owned(),
            region: clients.region.clone(),
        })
}

#[cfg(test)]
mod tests {
    use super::super::images::tests::image;
    use super::*;

    #[test]
    fn a_base_must_be_available_and_fit() {
        let one = image("ami-1", "debian", &[]);
        assert_eq!(check(one.clone(), "x86_64").unwrap().id, "ami-1");
        assert!(matches!(
            check(one.clone(), "arm64"),
            Err(BaseError::Architecture { .. })
        ));
        let pending = Image {
            state: "pending".into(),
            ..one
        };
        assert!(matches!(
            check(pending, "x86_64"),
            Err(BaseError::NotAvailable { .. })
        ));
    }
}
