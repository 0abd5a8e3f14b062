//! The queue and the workers of a Buildbot master, by its REST API (version 2).
//!
//! Read are, with the fields of Buildbot's own specification (`master/buildbot/spec/types/*.raml`): build requests that
//! are neither complete nor claimed; workers with the masters that they are connected to; builds that are not complete.
//! A field that is filtered by must be selected too (Buildbot 4 answers HTTP status 400 else).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::http::Http;
use super::{Asked, Source};
use crate::fleet::world::{CiState, Demand};

/// A master, and which part of it is this fleet's.
#[derive(Debug)]
pub struct Buildbot {
    http: Http,
    share: Share,
}

/// Which part of a master is this fleet's.
#[derive(Debug)]
pub(crate) struct Share {
    /// What stands before and after the instance id in a worker's name.
    worker: (String, String),
    /// Builders whose queue counts; empty for all.
    builders: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Requests {
    buildrequests: Vec<Request>,
}

#[derive(Debug, Deserialize)]
struct Request {
    builderid: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Builders {
    builders: Vec<Builder>,
}

#[derive(Debug, Deserialize)]
struct Builder {
    builderid: u64,
    name: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
}

#[derive(Debug, Deserialize)]
struct Worker {
    workerid: u64,
    name: String,
    connected_to: Vec<Connection>,
    #[serde(default)]
    paused: bool,
}

#[derive(Debug, Deserialize)]
struct Connection {
    #[serde(rename = "masterid")]
    _master: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Builds {
    builds: Vec<Build>,
}

#[derive(Debug, Deserialize)]
struct Build {
    workerid: u64,
}

impl Buildbot {
    /// A master at `url`. `worker` is the name of a worker with `{instance}` for the instance id.
    ///
    /// # Errors
    /// A client cannot be made, or the name has no `{instance}`.
    pub fn new(
        url: &str,
        worker: &str,
        builders: Vec<String>,
        authorization: Option<String>,
    ) -> Result<Self, String> {
        Ok(Self {
            share: Share::new(worker, builders)?,
            http: Http::new(url, authorization)?,
        })
    }

    async fn look(&self) -> Result<Demand, String> {
        let requests: Requests = self
            .http
            .get("api/v2/buildrequests?complete=false&claimed=false&field=builderid&field=complete&field=claimed")
            .await?;
        let builders = match self.share.builders.as_slice() {
            [] => None,
            _ => Some(
                self.http
                    .get::<Builders>("api/v2/builders?field=builderid&field=name")
                    .await?,
            ),
        };
        // Builds before workers: one that connects and takes a job in between is not listed yet, rather than idle.
        let builds: Builds = self
            .http
            .get("api/v2/builds?complete=false&field=workerid&field=complete")
            .await?;
        let workers: Workers = self
            .http
            .get("api/v2/workers?field=workerid&field=name&field=connected_to&field=paused")
            .await?;
        let queued = self.share.queued(&requests, builders.as_ref())?;
        Ok(Demand::Known {
            queued,
            workers: Some(self.share.workers(&workers, &builds)),
        })
    }
}

impl Share {
    pub(crate) fn new(worker: &str, builders: Vec<String>) -> Result<Self, String> {
        let (before, after) = worker
            .split_once("{instance}")
            .ok_or("the worker's name has no {instance} in it")?;
        Ok(Self {
            worker: (before.to_owned(), after.to_owned()),
            builders,
        })
    }

    pub(crate) fn queued(
        &self,
        requests: &Requests,
        builders: Option<&Builders>,
    ) -> Result<u32, String> {
        let mut wanted = BTreeSet::new();
        for name in &self.builders {
            let builders = builders.map_or(&[][..], |all| &all.builders);
            let builder = builders.iter().find(|builder| builder.name == *name);
            let builder = builder.ok_or_else(|| format!("the master has no builder {name}"))?;
            wanted.insert(builder.builderid);
        }
        let counts = |request: &&Request| wanted.is_empty() || wanted.contains(&request.builderid);
        let queued = requests.buildrequests.iter().filter(counts).count();
        Ok(u32::try_from(queued).unwrap_or(u32::MAX))
    }

    /// The workers that are connected and take jobs, by instance.
    pub(crate) fn workers(&self, workers: &Workers, builds: &Builds) -> BTreeMap<String, CiState> {
        let busy: BTreeSet<u64> = builds.builds.iter().map(|build| build.workerid).collect();
        let (before, after) = &self.worker;
        let listed = workers.workers.iter().filter_map(|worker| {
            let instance = worker.name.strip_prefix(before)?.strip_suffix(after)?;
            let state = if busy.contains(&worker.workerid) {
                CiState::Busy
            } else if worker.connected_to.is_empty() || worker.paused {
                return None;
            } else {
                CiState::Idle
            };
            Some((instance.to_owned(), state))
        });
        listed.collect()
    }
}

impl Source for Buildbot {
    fn ask(&self) -> Asked<'_> {
        Box::pin(async { self.look().await.unwrap_or_else(Demand::Unreachable) })
    }
}
