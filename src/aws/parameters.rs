//! Records in Parameter Store: small texts under a name, read and overwritten whole.

use std::collections::BTreeMap;

use aws_sdk_ssm::types::ParameterType;

use super::error::Context as _;
use super::{Clients, Error};

/// What a standard parameter holds, in bytes (SSM quotas, "Standard parameter value size").
pub const LIMIT: usize = 4096;
/// Names in one `GetParameters` or `DeleteParameters`.
const NAMES: usize = 10;

/// A name as one part of a parameter's name, which takes fewer characters (`PutParameter`, `Name`).
#[must_use]
pub fn segment(name: &str) -> String {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if name.bytes().all(fits) {
        return name.to_owned();
    }
    let mut out = String::from("x_");
    for byte in name.bytes() {
        if fits(byte) && byte != b'_' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("_{byte:02x}"));
        }
    }
    out
}

/// The values of the parameters that exist, by name; at most ten.
///
/// # Errors
/// [`Error`] of `GetParameters`.
pub async fn values(
    clients: &Clients,
    names: Vec<String>,
) -> Result<BTreeMap<String, String>, Error> {
    let answer = clients
        .ssm
        .get_parameters()
        .set_names(Some(names))
        .send()
        .await
        .call("ssm", "GetParameters")?;
    let found = answer.parameters.unwrap_or_default();
    Ok(found
        .into_iter()
        .filter_map(|parameter| Some((parameter.name?, parameter.value?)))
        .collect())
}

/// Makes a parameter.
///
/// # Errors
/// [`Error`] of `PutParameter`; [`Kind::AlreadyExists`](super::Kind::AlreadyExists) if there is one of this name.
pub async fn create(clients: &Clients, name: String, value: String) -> Result<(), Error> {
    put(clients, name, value, false).await
}

/// Writes a parameter, whether it exists or not.
///
/// # Errors
/// [`Error`] of `PutParameter`.
pub async fn set(clients: &Clients, name: String, value: String) -> Result<(), Error> {
    put(clients, name, value, true).await
}

/// Writes a parameter that only its readers can decrypt (`SecureString`), whether it exists or not.
///
/// # Errors
/// [`Error`] of `PutParameter`.
pub async fn set_secret(clients: &Clients, name: String, value: String) -> Result<(), Error> {
    clients
        .ssm
        .put_parameter()
        .name(name)
        .value(value)
        .r#type(ParameterType::SecureString)
        .overwrite(true)
        .send()
        .await
        .call("ssm", "PutParameter")
        .map(drop)
}

/// The names say whose parameters are, so they need no tags (and the caller no `ssm:AddTagsToResource`).
async fn put(clients: &Clients, name: String, value: String, overwrite: bool) -> Result<(), Error> {
    clients
        .ssm
        .put_parameter()
        .name(name)
        .value(value)
        .r#type(ParameterType::String)
        .overwrite(overwrite)
        .send()
        .await
        .call("ssm", "PutParameter")
        .map(drop)
}

/// Removes parameters; those that do not exist are no matter.
///
/// # Errors
/// [`Error`] of `DeleteParameters`.
pub async fn delete(clients: &Clients, names: &[String]) -> Result<(), Error> {
    for names in names.chunks(NAMES) {
        clients
            .ssm
            .delete_parameters()
            .set_names(Some(names.to_vec()))
            .send()
            .await
            .call("ssm", "DeleteParameters")?;
    }
    Ok(())
}
