//! A cloud on loopback that answers as AWS does, behind a judge.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use piaas_bake::aws::Clients;
use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::driver::Driver;
use piaas_bake::localcloud::{LocalCloud, connector};

use super::Judge;
use crate::aws;
use crate::support::{Run, Sandbox};

struct Gate {
    cloud: Arc<LocalCloud>,
    judge: Mutex<Option<Arc<Judge>>>,
}

impl Gate {
    async fn pass(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> std::io::Result<http::Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?;
        let request = http::Request::from_parts(head, body.to_bytes());
        let judge = self.judge.lock().unwrap().clone();
        if let Some(judge) = judge
            && let Some(refused) = judge.refuse(&request).await
        {
            return Ok(refused.map(Full::new));
        }
        let cloud = self.cloud.clone();
        let answer = tokio::task::spawn_blocking(move || aws::answered(&cloud, &request));
        match answer.await {
            Ok(Some(answer)) => Ok(answer.map(Full::new)),
            _ => Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// The cloud and its address. It ends with this.
pub struct Front {
    gate: Arc<Gate>,
    pub endpoint: String,
    /// Of somebody who is not judged.
    pub clients: Clients,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Front {
    pub async fn new(dir: &Path, driver: Arc<dyn Driver>) -> Self {
        let clock = SystemClock::shared();
        let cloud = LocalCloud::open(dir, driver, clock.clone()).unwrap();
        let clients = aws::connect(connector(cloud.clone()), clock).await;
        let gate = Arc::new(Gate {
            cloud,
            judge: Mutex::default(),
        });
        let way = gate.clone();
        let (endpoint, server) = aws::serve(move |request| way.clone().pass(request)).await;
        Self {
            gate,
            endpoint,
            clients,
            server,
        }
    }

    /// Whoever calls is judged from now on, or not.
    pub fn judge(&self, judge: Option<Arc<Judge>>) {
        *self.gate.judge.lock().unwrap() = judge;
    }

    /// Runs a verb that acts here.
    pub async fn run(&self, sandbox: &Sandbox, args: &[&str]) -> Run {
        let mut command = aws::command(sandbox, &self.endpoint, &[], args);
        Run::from(command.output().await.unwrap())
    }
}
