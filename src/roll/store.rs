//! The record and the request in Parameter Store.

use super::record::{RecordError, RollRecord, parameter};
use super::world::Request;
use crate::aws::parameters::{delete, set, values};
use crate::aws::{Clients, Error};

/// A record cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Cloud(#[from] Error),
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn request_parameter(group: &str) -> String {
    format!("{}/request", parameter(group))
}

/// The record of a group's newest roll; `None` if there never was one.
///
/// # Errors
/// [`StoreError`].
pub async fn load(clients: &Clients, group: &str) -> Result<Option<RollRecord>, StoreError> {
    let name = parameter(group);
    let mut found = values(clients, vec![name.clone()]).await?;
    match found.remove(&name) {
        Some(text) => Ok(Some(RollRecord::from_json(&name, &text)?)),
        None => Ok(None),
    }
}

/// Keeps a record.
///
/// # Errors
/// [`StoreError`].
pub async fn save(clients: &Clients, record: &RollRecord) -> Result<(), StoreError> {
    let text = record.to_json()?;
    set(clients, parameter(&record.group), text).await?;
    Ok(())
}

/// What somebody asks of the one who rolls; text that is no request is nobody's.
pub(super) async fn request(clients: &Clients, group: &str) -> Result<Option<Request>, Error> {
    let name = request_parameter(group);
    let mut found = values(clients, vec![name.clone()]).await?;
    Ok(found
        .remove(&name)
        .and_then(|text| serde_json::from_str(&text).ok()))
}

/// Asks the one who rolls a group to turn back.
///
/// # Errors
/// [`Error`] of `PutParameter`.
pub async fn ask(clients: &Clients, group: &str, request: &Request) -> Result<(), Error> {
    let text = serde_json::to_string(request).expect("a request has only text keys");
    set(clients, request_parameter(group), text).await
}

/// Removes a request that was answered.
pub(super) async fn forget_request(clients: &Clients, group: &str) -> Result<(), Error> {
    delete(clients, &[request_parameter(group)]).await
}
