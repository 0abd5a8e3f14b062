//! The instance metadata service of one machine (EC2 User Guide, "Instance metadata and user data").
//!
//! Version 2: a session token is made by `PUT /latest/api/token` and sent with every request. Version 1, without a
//! token, is answered only where the launch allowed it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{self, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};

use crate::localcloud::driver::LaunchSpec;
use crate::localcloud::nspawn::files::{NOTICE, get_json};
use crate::localcloud::regions;
use crate::localcloud::sessions::Session;

const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
const CREDENTIALS: &str = "meta-data/iam/security-credentials";
/// The longest life of a token: six hours.
const MAX_TTL: u64 = 21_600;

/// Answers on `listener` for the machine in `dir`, for as long as this process lives.
///
/// # Errors
/// No runtime can be made.
pub fn serve(listener: TcpListener, spec: LaunchSpec, dir: &Path) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let service = Arc::new(Metadata::new(spec, dir.join(NOTICE)));
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                let service = Arc::clone(&service);
                let answer = service_fn(move |request: Request<Incoming>| {
                    let service = Arc::clone(&service);
                    async move { Ok::<_, Infallible>(service.answer(&request)) }
                });
                // A client that goes away in the middle is its own concern.
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer),
                );
            }
            #[expect(unreachable_code, reason = "gives the block its error type")]
            io::Result::Ok(())
        })
    });
    Ok(())
}

struct Metadata {
    spec: LaunchSpec,
    /// What is under `/latest/`, by path.
    leaves: BTreeMap<String, String>,
    /// Says when a Spot Instance ends, once that is known.
    notice: PathBuf,
    tokens: Mutex<Vec<(String, Instant)>>,
}

impl Metadata {
    fn new(spec: LaunchSpec, notice: PathBuf) -> Self {
        let leaves = leaves(&spec);
        Self {
            spec,
            leaves,
            notice,
            tokens: Mutex::default(),
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let mut response = match (request.method(), path) {
            (&Method::PUT, "/latest/api/token") => self.token(request),
            (&Method::GET | &Method::HEAD, _) => self.get(request, path),
            _ => reply(StatusCode::METHOD_NOT_ALLOWED, String::new()),
        };
        response
            .headers_mut()
            .insert("server", http::HeaderValue::from_static("EC2ws"));
        response
    }

    /// What there is at this moment: the notice comes while a Spot Instance runs (EC2 User Guide, "Spot Instance
    /// interruption notices").
    fn now(&self) -> Cow<'_, BTreeMap<String, String>> {
        let ends_at = self.spec.spot.then(|| get_json::<Timestamp>(&self.notice));
        let Some(Ok(ends_at)) = ends_at else {
            return Cow::Borrowed(&self.leaves);
        };
        let stamp = ends_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let action = format!(r#"{{"action":"terminate","time":"{stamp}"}}"#);
        let mut leaves = self.leaves.clone();
        leaves.insert("meta-data/spot/instance-action".to_owned(), action);
        leaves.insert("meta-data/spot/termination-time".to_owned(), stamp);
        Cow::Owned(leaves)
    }

    fn token<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        // A request that went through a proxy is not the machine's own.
        if request.headers().contains_key("x-forwarded-for") {
            return reply(StatusCode::FORBIDDEN, String::new());
        }
        let ttl = request
            .headers()
            .get(TTL_HEADER)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let Some(ttl) = ttl.filter(|ttl| (1..=MAX_TTL).contains(ttl)) else {
            return reply(StatusCode::BAD_REQUEST, String::new());
        };
        let mut bytes = [0; 32];
        if std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .is_err()
        {
            return reply(StatusCode::INTERNAL_SERVER_ERROR, String::new());
        }
        let token = hex::encode(bytes);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tokens.retain(|(_, end)| *end > now);
        tokens.push((token.clone(), now + Duration::from_secs(ttl)));
        let mut response = reply(StatusCode::OK, token);
        response
            .headers_mut()
            .insert(TTL_HEADER, http::HeaderValue::from(ttl));
        response
    }

    fn get<B>(&self, request: &Request<B>, path: &str) -> Response<Full<Bytes>> {
        let allowed = match request.headers().get(TOKEN_HEADER) {
            None => !self.spec.imds_tokens_required,
            Some(token) => {
                let now = Instant::now();
                let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                tokens
                    .iter()
                    .any(|(known, end)| token.as_bytes() == known.as_bytes() && *end > now)
            }
        };
        if !allowed {
            return reply(StatusCode::UNAUTHORIZED, String::new());
        }
        let Some(rest) = path
            .strip_prefix("/latest")
            .or_else(|| path.strip_prefix("/2021-07-15"))
        else {
            return if path == "/" {
                reply(StatusCode::OK, "latest".to_owned())
            } else {
                missing()
            };
        };
        let key = rest.trim_matches('/');
        if let Some(profile) = &self.spec.instance_profile
            && key.strip_prefix(CREDENTIALS) == Some(&format!("/{profile}"))
        {
            let credentials = credentials(&self.spec, profile, Timestamp::now());
            return reply(StatusCode::OK, credentials);
        }
        let leaves = self.now();
        if let Some(leaf) = leaves.get(key) {
            return reply(StatusCode::OK, leaf.clone());
        }
        match listing(&leaves, key) {
            Some(names) => reply(StatusCode::OK, names),
            None => missing(),
        }
    }
}

/// Credentials of the instance's role (EC2 User Guide, "Retrieve security credentials from instance metadata"): a session
/// with the instance's id for its name. They are the same for an hour: who asks for one key after the other has a pair.
fn credentials(spec: &LaunchSpec, profile: &str, now: Timestamp) -> String {
    let stamp = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let into_hour = now.as_second().rem_euclid(3600);
    let since = now - SignedDuration::new(into_hour, now.subsec_nanosecond());
    let session = Session {
        role: format!("arn:aws:iam::{}:role/{profile}", spec.account_id),
        name: spec.instance_id.clone(),
        expires: since + SignedDuration::from_hours(6),
        source_identity: None,
        tags: BTreeMap::new(),
        request: since.strftime("%Y-%m-%dT%H").to_string(),
    };
    let keys = session.keys();
    serde_json::json!({
        "Code": "Success",
        "LastUpdated": stamp(since),
        "Type": "AWS-HMAC",
        "AccessKeyId": keys.access_key,
        "SecretAccessKey": keys.secret_key,
        "Token": keys.token,
        "Expiration": stamp(session.expires),
    })
    .to_string()
}

fn reply(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

fn missing() -> Response<Full<Bytes>> {
    reply(StatusCode::NOT_FOUND, "404 - Not Found\n".to_owned())
}

/// The names below a path, a line each; those that have names below them end in a slash.
fn listing(leaves: &BTreeMap<String, String>, key: &str) -> Option<String> {
    let prefix = if key.is_empty() {
        String::new()
    } else {
        format!("{key}/")
    };
    let names: BTreeSet<String> = leaves
        .keys()
        .filter_map(|leaf| leaf.strip_prefix(&prefix))
        .map(|rest| match rest.split_once('/') {
            Some((name, _)) => format!("{name}/"),
            None => rest.to_owned(),
        })
        .collect();
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join("\n"))
}

fn leaves(spec: &LaunchSpec) -> BTreeMap<String, String> {
    let domain = regions::private_domain(&spec.region);
    let name = format!("ip-{}.{domain}", spec.private_ip.replace('.', "-"));
    let document = serde_json::json!({
        "accountId": spec.account_id,
        "architecture": "x86_64",
        "availabilityZone": spec.availability_zone,
        "imageId": spec.image_id,
        "instanceId": spec.instance_id,
        "instanceType": spec.instance_type,
        "privateIp": spec.private_ip,
        "region": spec.region,
        "version": "2017-09-30",
    });
    let mut leaves = BTreeMap::from(
        [
            ("meta-data/ami-id", spec.image_id.as_str()),
            ("meta-data/ami-launch-index", "0"),
            ("meta-data/hostname", &name),
            ("meta-data/instance-action", "none"),
            ("meta-data/instance-id", &spec.instance_id),
            (
                "meta-data/instance-life-cycle",
                if spec.spot { "spot" } else { "on-demand" },
            ),
            ("meta-data/instance-type", &spec.instance_type),
            ("meta-data/local-hostname", &name),
            ("meta-data/local-ipv4", &spec.private_ip),
            (
                "meta-data/placement/availability-zone",
                &spec.availability_zone,
            ),
            ("meta-data/placement/region", &spec.region),
            ("meta-data/services/domain", "amazonaws.com"),
            ("meta-data/services/partition", "aws"),
        ]
        .map(|(path, value)| (path.to_owned(), value.to_owned())),
    );
    leaves.insert(
        "dynamic/instance-identity/document".to_owned(),
        document.to_string(),
    );
    if let Some(user_data) = &spec.user_data {
        leaves.insert("user-data".to_owned(), user_data.clone());
    }
    if let Some(profile) = &spec.instance_profile {
        let arn = format!(
            "arn:aws:iam::{}:instance-profile/{profile}",
            spec.account_id
        );
        let info = serde_json::json!({ "Code": "Success", "InstanceProfileArn": arn });
        leaves.insert("meta-data/iam/info".to_owned(), info.to_string());
        // A role of the profile's name; what it says is made when it is asked for.
        leaves.insert(format!("{CREDENTIALS}/{profile}"), String::new());
    }
    for (key, value) in &spec.metadata_tags {
        leaves.insert(format!("meta-data/tags/instance/{key}"), value.clone());
    }
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(required: bool) -> Metadata {
        Metadata::new(spec(required), PathBuf::new())
    }

    fn spec(required: bool) -> LaunchSpec {
        LaunchSpec {
            instance_id: "i-1".into(),
            snapshot_id: "snap-1".into(),
            image_id: "ami-1".into(),
            instance_type: "t3.micro".into(),
            region: "us-east-1".into(),
            availability_zone: "us-east-1a".into(),
            private_ip: "172.31.7.100".into(),
            account_id: "000000000000".into(),
            user_data: None,
            imds_tokens_required: required,
            imds_hop_limit: 1,
            metadata_tags: BTreeMap::from([("Name".to_owned(), "web".to_owned())]),
            instance_profile: None,
            terminate_on_shutdown: true,
            spot: false,
            silent: false,
        }
    }

    fn ask(
        metadata: &Metadata,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = metadata.answer(&request.body(()).unwrap());
        let status = response.status().as_u16();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let body = runtime
            .block_on(http_body_util::BodyExt::collect(response.into_body()))
            .unwrap()
            .to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn who_asks_for_each_key_alone_gets_a_pair() {
        let at = |text: &str| {
            let text = credentials(&spec(true), "worker", text.parse().unwrap());
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        let first = at("2026-01-01T12:00:00Z");
        assert_eq!(first, at("2026-01-01T12:59:59.5Z"));
        assert_eq!(first["Expiration"], "2026-01-01T18:00:00Z");
        assert_ne!(first["Token"], at("2026-01-01T13:00:00Z")["Token"]);
    }

    #[test]
    fn version_2_wants_a_token() {
        let metadata = metadata(true);
        let id = "/latest/meta-data/instance-id";
        assert_eq!(ask(&metadata, "GET", id, &[]).0, 401);
        assert_eq!(ask(&metadata, "PUT", "/latest/api/token", &[]).0, 400);
        assert_eq!(
            ask(
                &metadata,
                "PUT",
                "/latest/api/token",
                &[(TTL_HEADER, "21601")]
            )
            .0,
            400
        );
        let forwarded = [(TTL_HEADER, "60"), ("x-forwarded-for", "10.0.0.1")];
        assert_eq!(
            ask(&metadata, "PUT", "/latest/api/token", &forwarded).0,
            403
        );
        let (status, token) = ask(&metadata, "PUT", "/latest/api/token", &[(TTL_HEADER, "60")]);
        assert_eq!(status, 200);
        assert_eq!(
            ask(&metadata, "GET", id, &[(TOKEN_HEADER, &token)]),
            (200, "i-1".to_owned())
        );
        assert_eq!(ask(&metadata, "GET", id, &[(TOKEN_HEADER, "guess")]).0, 401);
    }

    #[test]
    fn paths_list_what_is_below_them() {
        let metadata = metadata(false);
        assert_eq!(
            ask(&metadata, "GET", "/latest/", &[]).1,
            "dynamic/\nmeta-data/"
        );
        assert_eq!(
            ask(&metadata, "GET", "/latest/meta-data/placement/", &[]).1,
            "availability-zone\nregion"
        );
        assert_eq!(
            ask(
                &metadata,
                "GET",
                "/latest/meta-data/tags/instance/Name",
                &[]
            )
            .1,
            "web"
        );
        assert_eq!(ask(&metadata, "GET", "/latest/user-data", &[]).0, 404);
    }

    #[test]
    fn a_spot_instance_reads_when_it_ends_once_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let notice = dir.path().join(NOTICE);
        let spot = LaunchSpec {
            spot: true,
            ..spec(false)
        };
        let metadata = Metadata::new(spot, notice.clone());
        let get = |path: &str| ask(&metadata, "GET", &format!("/latest/meta-data/{path}"), &[]);
        assert_eq!(get("instance-life-cycle").1, "spot");
        for path in ["spot/instance-action", "spot/termination-time", "spot"] {
            assert_eq!(get(path).0, 404, "{path}");
        }
        let ends_at: Timestamp = "2026-01-01T12:02:00.5Z".parse().unwrap();
        crate::localcloud::nspawn::files::put_json(&notice, &ends_at).unwrap();
        let action = r#"{"action":"terminate","time":"2026-01-01T12:02:00Z"}"#;
        assert_eq!(get("spot/instance-action"), (200, action.to_owned()));
        assert_eq!(get("spot/termination-time").1, "2026-01-01T12:02:00Z");
        assert_eq!(get("spot/").1, "instance-action\ntermination-time");
    }
}
