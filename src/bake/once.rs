//! One command on a new machine of an image: to look inside, without a bake.

use std::path::Path;
use std::time::Duration;

use aws_sdk_ec2::types::{InstanceType, ResourceType, ShutdownBehavior};
use base64::Engine as _;

use super::bundle::user_data;
use super::error::{Failure, LeftOver};
use super::event::{Event, Resource};
use super::images::Image;
use super::machine;
use super::names::{RunId, client_token};
use super::undo::Undo;
use crate::aws::error::Context as _;
use crate::aws::ssm::{self, Invocation, Verdict};
use crate::aws::wait::{Pace, Patience};
use crate::aws::{Clients, Error, tags};
use crate::cancel::Cancel;
use crate::events::Sink;
use crate::journal::{FORMAT, Facts, Journal, RunHeader};

/// The machine ends itself after this long, whatever becomes of its client.
const LIFETIME: Duration = Duration::from_secs(3600);

const ONLINE: Patience = Patience {
    what: "the machine's agent",
    stall: Duration::from_secs(600),
    first: Duration::from_millis(500),
    longest: Duration::from_secs(5),
};

const COMMAND: Patience = Patience {
    what: "the command",
    stall: LIFETIME,
    first: Duration::from_millis(300),
    longest: Duration::from_secs(2),
};

/// What is to be run, and as whom.
#[derive(Debug)]
pub struct Order<'a> {
    pub image: &'a Image,
    pub instance_type: &'a str,
    /// Shell text; values in it are quoted already.
    pub script: &'a str,
    /// Directory of the journals.
    pub runs: &'a Path,
    pub account: String,
    pub run: RunId,
    pub cancel: Cancel,
}

/// What the command gave, and what could not be removed.
#[derive(Debug)]
pub struct Answer {
    pub result: Result<Invocation, Failure>,
    pub left_over: Vec<LeftOver>,
}

/// Launches a machine, runs the script on it through SSM and removes the machine, whatever happens.
///
/// # Errors
/// The journal cannot be written; nothing has been launched then.
pub async fn once(
    clients: &Clients,
    order: Order<'_>,
    sink: &dyn Sink<Event>,
) -> Result<Answer, crate::journal::Error> {
    let now = || clients.clock.now();
    let header = RunHeader {
        format: FORMAT,
        purpose: "cloud run".to_owned(),
        run: order.run.to_string(),
        recipe: order.image.name.clone(),
        version: String::new(),
        digest: order.image.digest().unwrap_or_default().to_owned(),
        cloud: clients.cloud.to_owned(),
        account: order.account.clone(),
        region: clients.region.clone(),
        started: now(),
    };
    let mut journal = Journal::create(order.runs, header)?;
    let token = client_token(&order.image.id, &order.run, Resource::Tester.as_str());
    let intent = journal.intent(Resource::Tester.as_str(), &token, Facts::new(), now())?;
    let result = match launch(clients, &order, &token).await {
        Ok(id) => {
            journal.outcome(intent, vec![id.clone()], now())?;
            on_machine(clients, &order, &id).await
        }
        Err(error) => Err(error.into()),
    };
    let undo = Undo {
        clients,
        sink,
        seed: order.run.seed(),
    };
    let entries = journal.ledger().to_undo();
    let left_over = undo.walk(&mut journal, &entries).await;
    if left_over.is_empty() {
        journal.end("undone", now())?;
    }
    Ok(Answer { result, left_over })
}

async fn launch(clients: &Clients, order: &Order<'_>, token: &str) -> Result<String, Error> {
    let mut all = tags::Tags::new();
    tags::put(&mut all, tags::RUN, order.run.as_str());
    tags::put(
        &mut all,
        tags::NAME,
        &format!("piaas-bake once {}", order.image.name),
    );
    let expires = clients.clock.now() + LIFETIME;
    tags::put(&mut all, tags::EXPIRES, &expires.to_string());
    let answer = clients
        .ec2
        .run_instances()
        .image_id(&order.image.id)
        .instance_type(InstanceType::from(order.instance_type))
        .min_count(1)
        .max_count(1)
        .client_token(token)
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .metadata_options(machine::metadata())
        .set_block_device_mappings(Some(machine::volumes(order.image, order.image.size_gib)))
        .user_data(
            base64::engine::general_purpose::STANDARD.encode(user_data(&clients.region, LIFETIME)),
        )
        .tag_specifications(tags::specification(ResourceType::Instance, &all))
        .tag_specifications(tags::specification(ResourceType::Volume, &all))
        .send()
        .await
        .call("ec2", "RunInstances")?;
    answer
        .instances()
        .first()
        .and_then(|instance| instance.instance_id())
        .map(str::to_owned)
        .ok_or_else(|| Error::incomplete("ec2", "RunInstances", "instance id"))
}

async fn on_machine(clients: &Clients, order: &Order<'_>, id: &str) -> Result<Invocation, Failure> {
    let mut pace = Pace::new(ONLINE, order.run.seed());
    loop {
        let state = ssm::ping(clients, id).await?;
        if state == "Online" {
            break;
        }
        match machine::look(clients, id).await? {
            Some(instance) if instance.is_lost() => return Err(instance.lost(id)),
            _ => pause(clients, order, &mut pace, &state).await?,
        }
    }
    let command = ssm::send(clients, id, order.script, LIFETIME, "piaas-bake cloud run").await?;
    let mut pace = Pace::new(COMMAND, order.run.seed());
    loop {
        match ssm::invocation(clients, id, &command).await? {
            Some(invocation) if invocation.verdict != Verdict::Underway => return Ok(invocation),
            _ => pause(clients, order, &mut pace, "running").await?,
        }
    }
}

async fn pause(
    clients: &Clients,
    order: &Order<'_>,
    pace: &mut Pace,
    state: &str,
) -> Result<(), Failure> {
    let pause = pace.after(clients.clock.now(), state)?;
    let mut cancel = order.cancel.clone();
    tokio::select! {
        () = clients.clock.sleep(pause) => Ok(()),
        () = cancel.cancelled() => Err(Failure::Cancelled),
    }
}
