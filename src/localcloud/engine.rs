//! One request: signature, service, operation, records.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::auth::{authenticate, guess};
use super::driver::Driver;
use super::faults::{self, Faults, Meddling};
use super::nspawn::files::{is_file_locked, try_lock_file};
use super::s3::{self, Buckets, Content, Payload};
use super::state::{Locked, Process, State, StateError, Store};
use super::wire::Service;
use super::wire::error::ApiError;
use super::wire::json;
use super::wire::sigv4::Authorization;
use super::{DEFAULT_REGION, autoscaling, ec2, imagebuilder, secrets, ssm, sts};
use crate::clock::SharedClock;

/// Bytes of the largest request body that stays in memory; no operation takes as much.
const BODY_LIMIT: usize = 4 * 1024 * 1024;
/// The lock of a process with a script of faults: the others leave Auto Scaling's launches to it, or they would mend what
/// it breaks.
const SCALER: &str = "scaler.lock";

/// A body that no operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// A cloud in a directory. Several processes may have the same one open.
pub struct LocalCloud {
    store: Store,
    directory: PathBuf,
    buckets: Buckets,
    driver: Arc<dyn Driver>,
    clock: SharedClock,
    process: Process,
    requests: AtomicU64,
    faults: Option<Arc<Faults>>,
    /// Held as long as this one, with a script of faults, is to launch what Auto Scaling launches.
    _scaler: Option<File>,
}

/// What a client gets.
#[derive(Debug)]
pub enum Answer {
    /// A response; its body takes this long.
    Sent(Response<Content>, Duration),
    /// Nothing: the connection ends.
    Closed,
    /// Nothing: the connection is reset.
    Reset,
}

impl std::fmt::Debug for LocalCloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCloud")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// What an operation works on.
pub(super) struct Call<'a> {
    pub state: &'a mut State,
    /// Where the cloud lies, with its buckets.
    pub directory: &'a Path,
    pub driver: &'a dyn Driver,
    pub now: Timestamp,
    pub region: &'a str,
    pub process: Process,
    pub dry_run: bool,
}

/// Reads its input from the body, answers with a JSON object.
pub(super) type JsonOperation = fn(&mut Call<'_>, &[u8]) -> Result<serde_json::Value, ApiError>;

/// Answers a request of awsJson1.1 by the operation that its `x-amz-target` names, after `prefix`.
pub(super) fn answer_json(
    call: &mut Call<'_>,
    request: &Request<Bytes>,
    request_id: &str,
    (service, prefix): (&str, &str),
    operations: &[(&str, JsonOperation)],
) -> Result<Response<Bytes>, ApiError> {
    let operation = json::operation(request, prefix, service, operations)?;
    let answer = operation(call, request.body())?;
    let (ok, kind) = (StatusCode::OK, json::JSON_1_1);
    Ok(json::response(ok, kind, request_id, &answer))
}

impl LocalCloud {
    /// Opens the cloud in `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// [`StateError`] if the directory cannot be used or holds something else.
    pub fn open(
        directory: &Path,
        driver: Arc<dyn Driver>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, StateError> {
        Self::open_with(directory, driver, clock, None)
    }

    /// As [`Self::open`], with a script of faults for the requests to this one and for the machines that it launches.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        directory: &Path,
        driver: Arc<dyn Driver>,
        clock: SharedClock,
        faults: Option<Arc<Faults>>,
    ) -> Result<Arc<Self>, StateError> {
        let driver = match &faults {
            Some(faults) => Arc::new(Meddling::new(driver, faults.clone())),
            None => driver,
        };
        let store = Store::open(directory)?;
        // A second script at the same time is as good a scaler as the first one.
        let scaler = match &faults {
            Some(_) => try_lock_file(&directory.join(SCALER)).map_err(|source| StateError::Io {
                action: "lock",
                path: directory.join(SCALER),
                source,
            })?,
            None => None,
        };
        let cloud = Self {
            store,
            _scaler: scaler,
            directory: directory.to_owned(),
            buckets: Buckets::of(directory),
            driver,
            clock,
            process: Process::current(),
            requests: AtomicU64::new(0),
            faults,
        };
        if cloud.store.regions()?.is_empty() {
            cloud.locked(DEFAULT_REGION)?.save()?;
        }
        cloud.tick(|| ())?;
        Ok(Arc::new(cloud))
    }

    /// The clock that it goes by.
    pub(super) fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    /// Takes the body of a request, to the disk if it is an object's.
    ///
    /// # Errors
    /// The body is larger than any operation takes.
    pub async fn receive<B>(&self, request: Request<B>) -> Result<Request<Payload>, TooLarge>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let payload = if s3::is_ours(&head) {
            s3::receive(&head, body, &self.buckets, self.clock.now()).await
        } else {
            let body = Limited::new(body, BODY_LIMIT).collect().await;
            Payload::Held(body.map_err(|_| TooLarge)?.to_bytes())
        };
        Ok(head.map(|()| payload))
    }

    /// Answers one request, with the faults of the script if there is one.
    pub fn answer(&self, mut request: Request<Payload>) -> Answer {
        let sent = |response| Answer::Sent(response, Duration::ZERO);
        let Some(faults) = &self.faults else {
            return sent(self.serve(request, None));
        };
        let service = guess(&request);
        let fault = faults.on_request(service, &operation(&request));
        let refused = |error: ApiError| {
            sent(
                error
                    .respond(service, &self.request_id())
                    .map(Content::Held),
            )
        };
        match fault {
            None => sent(self.serve(request, None)),
            Some(faults::Fault::Throttle) => refused(faults::throttled(service)),
            Some(faults::Fault::Error {
                status,
                code,
                message,
            }) => {
                let code = code.unwrap_or_else(|| faults::failed(service, status).to_owned());
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                refused(ApiError::new(code, message).with_status(status))
            }
            Some(faults::Fault::DropRequest) => Answer::Closed,
            Some(faults::Fault::DropReply) => {
                self.serve(request, None);
                Answer::Closed
            }
            Some(faults::Fault::Reset) => {
                self.serve(request, None);
                Answer::Reset
            }
            Some(faults::Fault::Duplicate) => {
                let again = request.body_mut().again(&self.buckets);
                let head = s3::head(&request);
                self.serve(head.map(|()| again), None);
                sent(self.serve(request, None))
            }
            Some(faults::Fault::Slow(time)) => Answer::Sent(self.serve(request, None), time),
            Some(faults::Fault::Stale(ago)) => {
                let region = Authorization::read(&request).map(|one| one.region);
                let past = region
                    .ok()
                    .and_then(|region| faults.past(&region, ago, self.clock.now()));
                sent(self.serve(request, past.as_deref()))
            }
        }
    }

    /// Answers one request whose body has been taken. What S3 holds has no past: its reads are never late.
    fn serve(&self, request: Request<Payload>, past: Option<&State>) -> Response<Content> {
        let (parts, payload) = request.into_parts();
        let head = Request::from_parts(parts, ());
        if !s3::is_ours(&head) {
            let body = match payload {
                Payload::Held(body) => body,
                // Bodies of others stay in memory.
                Payload::Spooled(_) | Payload::Refused(_) | Payload::Unread => Bytes::new(),
            };
            return self
                .handle_at(&head.map(|()| body), past)
                .map(Content::Held);
        }
        let request_id = self.request_id();
        let now = self.clock.now();
        let answer = s3::handle(&head, payload, &self.buckets, now, &request_id)
            .unwrap_or_else(|error| error.respond(Service::S3, &request_id).map(Content::Held));
        if head.method() == Method::HEAD {
            return answer.map(|_| Content::default());
        }
        answer
    }

    /// The directory it lies in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The regions that have records.
    pub(super) fn regions(&self) -> Result<Vec<String>, StateError> {
        self.store.regions()
    }

    pub(super) fn locked(&self, region: &str) -> Result<Locked<'_>, StateError> {
        let now = self.clock.now();
        let mut locked = self.store.lock(now, region)?;
        ec2::lifecycle::refresh(&mut locked.state, self.driver.as_ref(), now);
        if self.faults.is_some() || !is_file_locked(&self.directory.join(SCALER)) {
            autoscaling::advance(&mut locked.state, self.driver.as_ref(), now, self.process);
        }
        Ok(locked)
    }

    /// Moves all regions on, as every request does its own. `look` is asked while the cloud is locked.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn tick<T>(&self, look: impl FnOnce() -> T) -> Result<T, StateError> {
        let regions = self.regions()?;
        let (last, others) = match regions.split_last() {
            Some((last, others)) => (last.as_str(), others),
            None => (DEFAULT_REGION, &[][..]),
        };
        for region in others {
            self.locked(region)?.save()?;
        }
        let mut locked = self.locked(last)?;
        locked.save()?;
        Ok(look())
    }

    /// Offers the base image of this digest ([`Base::digest`](crate::debs::Base::digest)) in a region, and gives its id.
    /// A machine can be launched from it as soon as it has been made.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn offer_base(&self, region: &str, digest: &str) -> Result<String, StateError> {
        let mut locked = self.locked(region)?;
        let image = locked.state.offer_base(digest);
        locked.save()?;
        Ok(image)
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        self.driver.as_ref()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Answers one request of the AWS API. Blocks for the lock and the disk, not for machines.
    pub fn handle(&self, request: &Request<Bytes>) -> Response<Bytes> {
        if !s3::is_ours(request) {
            return self.handle_at(request, None);
        }
        let head = s3::head(request);
        let payload = s3::receive_all(&head, request.body(), &self.buckets, self.clock.now());
        let (parts, content) = self.serve(head.map(|()| payload), None).into_parts();
        match content.read() {
            Ok(body) => Response::from_parts(parts, body),
            Err(error) => ApiError::internal(error.to_string()).respond(Service::S3, ""),
        }
    }

    /// As [`Self::handle`]; with a `past`, the records are those, and nothing becomes of them.
    fn handle_at(&self, request: &Request<Bytes>, past: Option<&State>) -> Response<Bytes> {
        let request_id = self.request_id();
        let now = self.clock.now();
        let (authorization, service, caller) = match authenticate(request, now) {
            Ok(found) => found,
            Err((service, error)) => return error.respond(service, &request_id),
        };
        let region = &authorization.region;
        let answer = match service {
            Service::Ec2 => self.transact(region, past, |call| {
                ec2::handle(call, request.body(), &request_id)
            }),
            Service::AutoScaling => self.transact(region, past, |call| {
                autoscaling::handle(call, request.body(), &request_id)
            }),
            Service::Ssm => {
                self.transact(region, past, |call| ssm::handle(call, request, &request_id))
            }
            Service::Secrets => self.transact(region, past, |call| {
                secrets::handle(call, request, &request_id)
            }),
            Service::Sts => sts::handle(request.body(), &caller, now, &request_id),
            // Its requests went another way.
            Service::S3 => Err(s3::not_here()),
            Service::ImageBuilder => imagebuilder::handle(request, &request_id),
        };
        answer.unwrap_or_else(|error| error.respond(service, &request_id))
    }

    /// What an operation did to the records is kept even if it fails: it fails before it changes anything, or
    /// machines have changed already.
    fn transact(
        &self,
        region: &str,
        past: Option<&State>,
        operation: impl FnOnce(&mut Call<'_>) -> Result<Response<Bytes>, ApiError>,
    ) -> Result<Response<Bytes>, ApiError> {
        let broken = |error: StateError| ApiError::internal(error.to_string());
        let mut locked = self.locked(region).map_err(broken)?;
        // The past of what the first request makes is without it.
        if let Some(faults) = &self.faults {
            faults.remember(&locked.state, self.clock.now());
        }
        let mut then = past.cloned();
        let mut call = Call {
            state: then.as_mut().unwrap_or(&mut locked.state),
            directory: &self.directory,
            driver: self.driver.as_ref(),
            now: self.clock.now(),
            region,
            process: self.process,
            dry_run: false,
        };
        let answer = operation(&mut call);
        locked.save().map_err(broken)?;
        if let Some(faults) = &self.faults {
            faults.remember(&locked.state, self.clock.now());
        }
        answer
    }

    fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let text = format!("{}/{}/{number}", self.clock.now(), self.process.pid);
        super::state::uuid_form(&hex::encode(Sha256::digest(text)))
    }
}

/// The operation that a request asks for, in whatever protocol; empty if it asks for none.
fn operation(request: &Request<Payload>) -> String {
    if s3::is_ours(request) {
        return s3::operation(request);
    }
    let target = request.headers().get("x-amz-target");
    if let Some(target) = target.and_then(|value| value.to_str().ok()) {
        return target.rsplit('.').next().unwrap_or_default().to_owned();
    }
    if request.uri().path() != "/" {
        return request.uri().path().trim_matches('/').to_owned();
    }
    form_urlencoded::parse(request.body().held())
        .find(|(name, _)| name == "Action")
        .map(|(_, action)| action.into_owned())
        .unwrap_or_default()
}
