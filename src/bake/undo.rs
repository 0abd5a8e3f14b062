//! Removing what a run created: after a failure, after a crash, and at the end of every bake.
//!
//! Each removal starts from the journal alone, may be repeated, and treats what is gone as removed.

use std::time::Duration;

use super::base::parameter;
use super::error::{Failure, LeftOver};
use super::event::{Event, Resource, Stamped};
use super::images::{self, filter};
use super::machine::{self, Ending};
use super::names::manifest_digest;
use super::phases::launch;
use super::run::facts;
use crate::aws::error::Context as _;
use crate::aws::objects::{self, Place};
use crate::aws::wait::{Pace, Patience};
use crate::aws::{self, Clients, Commands, Kind, parameters, tags};
use crate::events::Sink;
use crate::journal::{Entry, Journal, State};
use crate::lease;

pub(super) const REMOVAL: Patience = Patience {
    what: "a removal to succeed",
    stall: Duration::from_secs(600),
    first: Duration::from_secs(1),
    longest: Duration::from_secs(15),
};
/// How long something that may have been created is searched for: reads of EC2 are eventually consistent.
const SEARCH: Patience = Patience {
    what: "a search",
    stall: Duration::from_secs(6),
    first: Duration::from_secs(2),
    longest: Duration::from_secs(2),
};

pub(crate) struct Undo<'a> {
    pub clients: &'a Clients,
    pub sink: &'a dyn Sink<Event>,
    pub seed: u64,
}

impl Undo<'_> {
    /// Removes these in the order given. What cannot be removed is returned; the others are removed all the same.
    ///
    /// A journal that cannot be written any more does not stop it: a later clean-up finds things gone, which is fine.
    pub async fn walk(&self, journal: &mut Journal, entries: &[Entry]) -> Vec<LeftOver> {
        self.begin(entries).await;
        let mut remaining = Vec::new();
        for entry in entries {
            let _later = journal.undo(entry.id, self.clients.clock.now());
            match self.remove(entry).await {
                Ok(()) => {
                    let _later = journal.undone(entry.id, self.clients.clock.now());
                }
                Err(error) => {
                    let error = error.to_string();
                    let _later = journal.undo_failed(entry.id, &error, self.clients.clock.now());
                    let left = left_over(entry, error, &self.clients.commands);
                    self.emit(Event::LeftOver {
                        kind: left.kind,
                        id: left.id.clone(),
                        command: left.command.clone(),
                    });
                    remaining.push(left);
                }
            }
        }
        remaining
    }

    /// Asks for the end of the machines among these: they take a while to go, so all of them begin before the first is
    /// waited for. Failures show when each is removed.
    pub async fn begin(&self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| is_instance(entry)) {
            for id in &entry.ids {
                let _shown_later = machine::terminate(self.clients, id, Ending::Orderly).await;
            }
        }
    }

    fn emit(&self, event: Event) {
        self.sink.emit(Stamped {
            at: self.clients.clock.now(),
            event,
        });
    }

    /// Removes what an entry stands for, which may be gone; tries again as long as that may help.
    pub async fn remove(&self, entry: &Entry) -> Result<(), Failure> {
        let mut pace = Pace::new(REMOVAL, self.seed);
        let mut said = String::new();
        loop {
            match self.remove_once(entry).await {
                Err(Failure::Cloud(error)) if error.is_transient() || error.kind == Kind::InUse => {
                    let mark = error.mark();
                    let pause = pace.after(self.clients.clock.now(), &mark)?;
                    if mark != said {
                        self.emit(Event::Note {
                            text: format!(
                                "{} {} cannot be removed yet, it is tried again for {}s: {error}",
                                entry.kind,
                                entry.ids.first().unwrap_or(&entry.token),
                                REMOVAL.stall.as_secs()
                            ),
                        });
                        said = mark;
                    }
                    self.clients.clock.sleep(pause).await;
                }
                other => return other,
            }
        }
    }

    async fn remove_once(&self, entry: &Entry) -> Result<(), Failure> {
        match Resource::parse(&entry.kind) {
            Some(kind @ (Resource::Builder | Resource::Tester)) => self.instance(kind, entry).await,
            Some(Resource::Lease) => self.lease(entry).await,
            Some(Resource::Bundle) => self.bundle(entry).await,
            Some(Resource::SecurityGroup) => self.security_group(entry).await,
            Some(kind @ (Resource::Image | Resource::Layer)) => self.image(kind, entry).await,
            Some(Resource::Manifest) => self.manifest(entry).await,
            Some(Resource::Latest) => self.latest(entry).await,
            None => Err(aws::Error::incomplete(
                "journal",
                "undo",
                &format!("kind named {}", entry.kind),
            )
            .into()),
        }
    }

    async fn instance(&self, kind: Resource, entry: &Entry) -> Result<(), Failure> {
        for id in self.ids(entry, Search::Token(&entry.token)).await? {
            machine::terminate(self.clients, &id, Ending::Orderly).await?;
            machine::wait_terminated(self.clients, &id, self.seed).await?;
            self.emit(Event::Removed { kind, id });
        }
        Ok(())
    }

    async fn instances_by_token(&self, token: &str) -> Result<Vec<String>, aws::Error> {
        let answer = self
            .clients
            .ec2
            .describe_instances()
            .filters(filter("client-token", [token.to_owned()]))
            .send()
            .await
            .call("ec2", "DescribeInstances")?;
        let instances = answer
            .reservations()
            .iter()
            .flat_map(|reservation| reservation.instances());
        Ok(instances
            .filter_map(|instance| instance.instance_id().map(str::to_owned))
            .collect())
    }

    async fn security_group(&self, entry: &Entry) -> Result<(), Failure> {
        for id in self.ids(entry, Search::Group(&entry.token)).await? {
            let answer = self
                .clients
                .ec2
                .delete_security_group()
                .group_id(&id)
                .send()
                .await
                .call("ec2", "DeleteSecurityGroup");
            gone_is_fine(answer.map(drop))?;
            self.emit(Event::Removed {
                kind: Resource::SecurityGroup,
                id,
            });
        }
        Ok(())
    }

    async fn lease(&self, entry: &Entry) -> Result<(), Failure> {
        let (path, holder) = (&entry.facts[facts::PATH], run_of(entry));
        let names = self.ids(entry, Search::Lease { path, holder }).await?;
        parameters::delete(self.clients, &names).await?;
        for id in names {
            self.emit(Event::Removed {
                kind: Resource::Lease,
                id,
            });
        }
        Ok(())
    }

    async fn bundle(&self, entry: &Entry) -> Result<(), Failure> {
        let place = place(entry);
        gone_is_fine(objects::delete(self.clients, &place).await)?;
        self.emit(Event::Removed {
            kind: Resource::Bundle,
            id: place.to_string(),
        });
        Ok(())
    }

    async fn image(&self, kind: Resource, entry: &Entry) -> Result<(), Failure> {
        let run = run_of(entry);
        let name = &entry.token;
        // The snapshot of a layer may outlast the run, and does not have its tag.
        let tag = match kind {
            Resource::Layer => (tags::NAME, name.as_str()),
            _ => (tags::RUN, run),
        };
        let ids = self.ids(entry, Search::Image { name, run }).await?;
        if ids.is_empty() {
            // An undo that was cut off may have found the image and deregistered it.
            return self.delete_snapshots(Vec::new(), tag).await;
        }
        for id in ids {
            self.remove_with_snapshots(kind, &id, tag).await?;
        }
        Ok(())
    }

    /// Deregisters an unfinished image of a run and deletes the run's snapshots.
    pub async fn remove_image(&self, id: &str, run: &str) -> Result<(), Failure> {
        self.remove_with_snapshots(Resource::Image, id, (tags::RUN, run))
            .await
    }

    /// Deregisters an image and deletes its snapshots: those that it names, and those with this tag, which it may not
    /// name any more.
    async fn remove_with_snapshots(
        &self,
        kind: Resource,
        id: &str,
        tag: (&str, &str),
    ) -> Result<(), Failure> {
        let snapshots = images::get(self.clients, id)
            .await?
            .map(|image| image.snapshots)
            .unwrap_or_default();
        let answer = self
            .clients
            .ec2
            .deregister_image()
            .image_id(id)
            .send()
            .await
            .call("ec2", "DeregisterImage");
        gone_is_fine(answer.map(drop))?;
        self.delete_snapshots(snapshots, tag).await?;
        self.emit(Event::Removed {
            kind,
            id: id.to_owned(),
        });
        Ok(())
    }

    /// Deletes these snapshots, and those with this tag.
    async fn delete_snapshots(
        &self,
        mut snapshots: Vec<String>,
        (tag, value): (&str, &str),
    ) -> Result<(), Failure> {
        // A snapshot outlives its image, and one whose writing has just begun may be named by tags only.
        let tagged = self
            .clients
            .ec2
            .describe_snapshots()
            .owner_ids("self")
            .filters(filter(format!("tag:{tag}"), [value.to_owned()]))
            .send()
            .await
            .call("ec2", "DescribeSnapshots")?;
        snapshots.extend(
            tagged
                .snapshots()
                .iter()
                .filter_map(|snapshot| snapshot.snapshot_id().map(str::to_owned)),
        );
        snapshots.sort();
        snapshots.dedup();
        for snapshot in snapshots {
            self.delete_snapshot(&snapshot).await?;
        }
        Ok(())
    }

    /// A manifest stays if another bake has made an image of the digest since: it found it there, and did not make its own.
    async fn manifest(&self, entry: &Entry) -> Result<(), Failure> {
        if let Some(digest) = manifest_digest(&entry.token) {
            let run = run_of(entry);
            let all = images::of_digest(self.clients, digest).await?;
            if all.iter().any(|image| image.tag(tags::RUN) != Some(run)) {
                return Ok(());
            }
        }
        self.delete_parameter(&entry.token).await?;
        self.emit(Event::Removed {
            kind: Resource::Manifest,
            id: entry.token.clone(),
        });
        Ok(())
    }

    /// Puts back what was there, unless another bake has put its own image there since.
    async fn latest(&self, entry: &Entry) -> Result<(), Failure> {
        let name = &entry.token;
        if parameter(self.clients, name).await?.as_ref() != entry.facts.get(facts::VALUE) {
            return Ok(());
        }
        match entry.facts.get(facts::PREVIOUS) {
            Some(previous) => {
                parameters::set(self.clients, name.clone(), previous.clone()).await?;
            }
            None => self.delete_parameter(name).await?,
        }
        self.emit(Event::Removed {
            kind: Resource::Latest,
            id: name.clone(),
        });
        Ok(())
    }

    /// Deletes a snapshot; one that is not there is fine.
    pub async fn delete_snapshot(&self, id: &str) -> Result<(), Failure> {
        let answer = self
            .clients
            .ec2
            .delete_snapshot()
            .snapshot_id(id)
            .send()
            .await
            .call("ec2", "DeleteSnapshot");
        gone_is_fine(answer.map(drop)).map_err(Failure::from)
    }

    /// Deletes a parameter; one that is not there is fine.
    pub async fn delete_parameter(&self, name: &str) -> Result<(), Failure> {
        let answer = self
            .clients
            .ssm
            .delete_parameter()
            .name(name)
            .send()
            .await
            .call("ssm", "DeleteParameter");
        gone_is_fine(answer.map(drop)).map_err(Failure::from)
    }

    /// The ids that the journal knows; where it knows none, what a search finds.
    async fn ids(&self, entry: &Entry, search: Search<'_>) -> Result<Vec<String>, Failure> {
        if !entry.ids.is_empty() {
            return Ok(entry.ids.clone());
        }
        let mut pace = Pace::new(SEARCH, self.seed);
        loop {
            let found = match search {
                Search::Token(token) => self.instances_by_token(token).await?,
                Search::Lease { path, holder } => {
                    lease::of_holder(self.clients, path, holder).await?
                }
                Search::Group(name) => launch::groups_named(self.clients, name).await?,
                Search::Image { name, run } => {
                    let images = images::of_run(self.clients, name, run).await?;
                    images.into_iter().map(|image| image.id).collect()
                }
            };
            if !found.is_empty() {
                return Ok(found);
            }
            match pace.after(self.clients.clock.now(), "nothing") {
                Ok(pause) => self.clients.clock.sleep(pause).await,
                Err(_nothing_there) => return Ok(found),
            }
        }
    }
}

/// How something is found whose id was never written down.
#[derive(Clone, Copy)]
enum Search<'e> {
    /// Instances by their client token.
    Token(&'e str),
    /// The parameters of a lease, by who has it.
    Lease {
        path: &'e str,
        holder: &'e str,
    },
    /// A security group by its name.
    Group(&'e str),
    Image {
        name: &'e str,
        run: &'e str,
    },
}

fn is_instance(entry: &Entry) -> bool {
    entry.state != State::Kept
        && matches!(
            Resource::parse(&entry.kind),
            Some(Resource::Builder | Resource::Tester)
        )
}

fn gone_is_fine(answer: Result<(), aws::Error>) -> Result<(), aws::Error> {
    match answer {
        Err(error) if error.kind == Kind::NotFound => Ok(()),
        other => other,
    }
}

/// What these entries stand for, with the commands that remove it.
pub(super) fn describe(entries: &[Entry], commands: &Commands) -> Vec<LeftOver> {
    entries
        .iter()
        .map(|entry| left_over(entry, "not removed yet".to_owned(), commands))
        .collect()
}

pub(super) fn left_over(entry: &Entry, error: String, commands: &Commands) -> LeftOver {
    let kind = Resource::parse(&entry.kind).unwrap_or(Resource::Builder);
    let id = entry.ids.first().unwrap_or(&entry.token).clone();
    LeftOver {
        kind,
        command: by_hand(kind, entry, commands),
        id,
        error,
    }
}

/// Where a bundle is, as the journal knows it.
fn place(entry: &Entry) -> Place {
    let fact = |name: &str| entry.facts.get(name).cloned().unwrap_or_default();
    Place {
        bucket: fact(facts::BUCKET),
        key: fact(facts::KEY),
    }
}

/// The command that removes what an entry stands for: of the AWS CLI, and on the local cloud ours.
fn by_hand(kind: Resource, entry: &Entry, commands: &Commands) -> String {
    let run = run_of(entry);
    if commands.is_local() && !run.is_empty() {
        return commands.own(&format!("cloud gc --run {run}"));
    }
    commands.complete(&of_the_cli(kind, entry))
}

/// The command of the AWS CLI that removes what an entry stands for; ours where only a search finds it.
pub(crate) fn of_the_cli(kind: Resource, entry: &Entry) -> String {
    match (kind, entry.ids.first()) {
        (Resource::Builder | Resource::Tester, Some(id)) => {
            format!("aws ec2 terminate-instances --instance-ids {id}")
        }
        (Resource::SecurityGroup, Some(id)) => {
            format!("aws ec2 delete-security-group --group-id {id}")
        }
        (Resource::Image | Resource::Layer, Some(id)) => {
            format!("aws ec2 deregister-image --delete-associated-snapshots --image-id {id}")
        }
        (Resource::Bundle, _) => {
            let Place { bucket, key } = place(entry);
            format!("aws s3api delete-object --bucket {bucket} --key {key}")
        }
        (Resource::Lease, Some(id)) => format!("aws ssm delete-parameter --name {id}"),
        (Resource::Manifest, _) => format!("aws ssm delete-parameter --name {}", entry.token),
        (Resource::Latest, _) => match entry.facts.get(facts::PREVIOUS) {
            Some(value) => format!(
                "aws ssm put-parameter --overwrite --name {} --value {value}",
                entry.token
            ),
            None => format!("aws ssm delete-parameter --name {}", entry.token),
        },
        (_, None) => format!("piaas-bake gc --run {} --yes", run_of(entry)),
    }
}

fn run_of(entry: &Entry) -> &str {
    entry.facts.get(facts::RUN).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Facts, IntentId};

    fn entry(kind: Resource, ids: &[&str]) -> Entry {
        Entry {
            id: IntentId(1),
            kind: kind.as_str().into(),
            token: "/piaas-bake/web/latest".into(),
            facts: Facts::from([(facts::RUN.into(), "r1".into())]),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            state: State::Done,
        }
    }

    #[test]
    fn the_command_that_removes_it_names_it() {
        let aws = Commands::aws(&[], Some("eu-west-1"), None);
        let command = |kind, ids: &[&str]| by_hand(kind, &entry(kind, ids), &aws);
        assert_eq!(
            command(Resource::Builder, &["i-1"]),
            "aws ec2 terminate-instances --region eu-west-1 --instance-ids i-1"
        );
        assert_eq!(
            command(Resource::Latest, &[]),
            "aws ssm delete-parameter --region eu-west-1 --name /piaas-bake/web/latest"
        );
        assert!(command(Resource::Tester, &[]).ends_with("gc --run r1 --yes"));
        let local = Commands::local(&[("--state-dir", "/x")], "us-east-1");
        let builder = Resource::Builder;
        assert_eq!(
            by_hand(builder, &entry(builder, &["i-1"]), &local),
            "piaas-bake --state-dir /x cloud gc --run r1"
        );
    }
}
