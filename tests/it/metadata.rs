//! An instance metadata service for agents that run on this host.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::{SignedDuration, Timestamp};
use piaas_bake::localcloud::ACCOUNT_ID;
use piaas_bake::localcloud::sessions::Session;

/// A metadata service of version 2 for one Spot Instance. The role can be taken away and given back, and so can the instance.
pub struct Metadata {
    pub address: String,
    pub role: Arc<AtomicBool>,
    /// The instance is told that it ends.
    pub reclaimed: Arc<AtomicBool>,
}

impl Metadata {
    pub fn start(instance: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let role = Arc::new(AtomicBool::new(true));
        let reclaimed = Arc::new(AtomicBool::new(false));
        let (has_role, ends) = (Arc::clone(&role), Arc::clone(&reclaimed));
        let instance = instance.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let states = [&has_role, &ends].map(|state| state.load(Ordering::SeqCst));
                answer(stream, &instance, states);
            }
        });
        Self {
            address,
            role,
            reclaimed,
        }
    }
}

/// Of a session of the role, as the local cloud's own metadata service has them.
fn keys(instance: &str) -> String {
    let session = Session {
        role: format!("arn:aws:iam::{ACCOUNT_ID}:role/worker"),
        name: instance.to_owned(),
        // The clouds of tests have clocks of their own, and some of these jump.
        expires: Timestamp::now() + SignedDuration::from_hours(24 * 365),
        source_identity: None,
        tags: std::collections::BTreeMap::new(),
        request: "r".to_owned(),
    };
    let keys = session.keys();
    serde_json::json!({
        "Code": "Success",
        "AccessKeyId": keys.access_key,
        "SecretAccessKey": keys.secret_key,
        "Token": keys.token,
    })
    .to_string()
}

fn answer(mut stream: TcpStream, instance: &str, [role, reclaimed]: [bool; 2]) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => request.extend_from_slice(&buffer[..length]),
        }
    }
    let text = String::from_utf8_lossy(&request).to_lowercase();
    let keys = keys(instance);
    let line = text.lines().next().unwrap_or_default().to_owned();
    let body = match line.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["put", "/latest/api/token"] if text.contains("ttl-seconds: ") => Some("secret"),
        _ if !text.contains("x-aws-ec2-metadata-token: secret") => None,
        ["get", "/latest/meta-data/instance-id"] => Some(instance),
        ["get", "/latest/meta-data/placement/region"] => Some("us-east-1"),
        ["get", "/latest/meta-data/instance-life-cycle"] => Some("spot"),
        ["get", "/latest/meta-data/spot/instance-action"] if reclaimed => {
            Some(r#"{"action":"terminate","time":"2026-01-01T12:02:00Z"}"#)
        }
        ["get", "/latest/meta-data/services/domain"] => Some("amazonaws.com"),
        ["get", "/latest/meta-data/iam/security-credentials/"] if role => Some("worker"),
        ["get", "/latest/meta-data/iam/security-credentials/worker"] if role => Some(&*keys),
        _ => None,
    };
    let (status, body) = body.map_or(("404 Not Found", ""), |body| ("200 OK", body));
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}
