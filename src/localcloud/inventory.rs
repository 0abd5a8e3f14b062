//! What there is, who made it, and what nobody waits for any more.

use jiff::Timestamp;

use super::driver::{DriverError, SnapshotDisk};
use super::engine::LocalCloud;
use super::state::{Image, Instance, InstanceState, Process, Progress, StateError, Tags};
use super::{ACCOUNT_ID, ec2};

/// The inventory could not be taken, or an orphan could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot remove {id}: {source}; repeat the clean-up")]
    Driver { id: String, source: DriverError },
}

/// Kind of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Instance,
    Image,
    Snapshot,
}

/// One resource of the account.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Item {
    pub kind: Kind,
    pub region: String,
    pub id: String,
    /// As the EC2 API names it: `running`, `available`, `completed`, …
    pub state: String,
    pub created: Timestamp,
    pub tags: Tags,
    /// Process that made it and whether it still runs; `None` where that does not matter.
    pub owner: Option<Owner>,
}

/// A process that made something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Owner {
    pub pid: u32,
    pub alive: bool,
}

impl From<Process> for Owner {
    fn from(process: Process) -> Self {
        Self {
            pid: process.pid,
            alive: process.is_alive(),
        }
    }
}

/// A bucket of the account.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BucketItem {
    pub name: String,
    pub region: String,
    pub objects: usize,
    pub bytes: u64,
}

/// What [`LocalCloud::reap_orphans`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reaped {
    pub instances: Vec<String>,
    pub images: Vec<String>,
    pub snapshots: Vec<String>,
}

impl LocalCloud {
    /// The names of a region's parameters below a path, such as `/team/`.
    ///
    /// # Errors
    /// [`InventoryError::State`].
    pub fn parameters_below(
        &self,
        region: &str,
        path: &str,
    ) -> Result<Vec<String>, InventoryError> {
        let locked = self.locked(region)?;
        let names = locked.state.parameters.keys();
        Ok(names
            .filter(|name| name.starts_with(path))
            .cloned()
            .collect())
    }

    /// All instances that are not terminated, images and snapshots of the account, in all regions; the base image is not
    /// among them.
    ///
    /// # Errors
    /// [`InventoryError::State`].
    pub fn inventory(&self) -> Result<Vec<Item>, InventoryError> {
        let mut all = Vec::new();
        for region in self.regions()? {
            let mut locked = self.locked(&region)?;
            locked.save()?;
            all.extend(items(&locked.state));
        }
        Ok(all)
    }

    /// The buckets, with what is in them.
    ///
    /// # Errors
    /// Their files cannot be read.
    pub fn buckets(&self) -> std::io::Result<Vec<BucketItem>> {
        let buckets = super::s3::Buckets::of(self.directory());
        let all = buckets.all()?.into_iter().map(|(name, bucket)| {
            let objects = buckets.list(&name, "")?;
            Ok(BucketItem {
                name,
                region: bucket.region,
                objects: objects.len(),
                bytes: objects.iter().map(|object| object.length).sum(),
            })
        });
        all.collect()
    }

    /// The disk of a finished snapshot, where the machines are real: see [`Driver::disk`].
    ///
    /// # Errors
    /// It could not be written.
    pub fn disk(&self, snapshot_id: &str) -> Result<SnapshotDisk, DriverError> {
        self.driver().disk(snapshot_id)
    }

    /// Makes this process the owner of instances and unfinished images with this tag: whoever had made them is gone, and
    /// somebody goes on with them.
    ///
    /// # Errors
    /// [`InventoryError::State`].
    pub fn adopt(&self, key: &str, value: &str) -> Result<(), InventoryError> {
        let this = Process::current();
        let ours = |tags: &Tags| tags.get(key).is_some_and(|found| found == value);
        for region in self.regions()? {
            let mut locked = self.locked(&region)?;
            let state = &mut locked.state;
            let is_ours = |one: &Instance| one.owner.is_some() && ours(&one.tags);
            state
                .instances
                .change(is_ours, |one| one.owner = Some(this));
            let is_ours = |one: &Image| one.owner.is_some() && ours(&one.tags);
            state.images.change(is_ours, |one| one.owner = Some(this));
            locked.save()?;
        }
        Ok(())
    }

    /// Terminates the instances of processes that are gone, and removes their unfinished images with the snapshots.
    ///
    /// # Errors
    /// [`InventoryError`]; what was removed before stays removed.
    pub fn reap_orphans(&self) -> Result<Reaped, InventoryError> {
        let mut reaped = Reaped::default();
        for region in self.regions()? {
            let mut locked = self.locked(&region)?;
            let outcome = reap(&mut locked.state, self.driver(), self.now(), &mut reaped);
            locked.save()?;
            outcome?;
        }
        Ok(reaped)
    }
}

fn items(state: &super::state::State) -> Vec<Item> {
    let live = state
        .instances
        .values()
        .filter(|one| one.state != InstanceState::Terminated);
    let instances = live.map(|one| Item {
        kind: Kind::Instance,
        region: state.region.clone(),
        id: one.id.clone(),
        state: one.state.code_and_name().1.to_owned(),
        created: one.attached(),
        tags: one.tags.clone(),
        owner: one.owner.map(Owner::from),
    });
    let images = state
        .images
        .values()
        .filter(|image| image.owner_id == ACCOUNT_ID)
        .map(|image| Item {
            kind: Kind::Image,
            region: state.region.clone(),
            id: image.id.clone(),
            state: ec2::image_state(image.state).to_owned(),
            created: image.created,
            tags: image.tags.clone(),
            // A finished image outlives its maker.
            owner: image
                .owner
                .filter(|_| image.state == Progress::Pending)
                .map(Owner::from),
        });
    let snapshots = state
        .snapshots
        .values()
        .filter(|one| one.owner_id == ACCOUNT_ID)
        .map(|one| Item {
            kind: Kind::Snapshot,
            region: state.region.clone(),
            id: one.id.clone(),
            state: ec2::snapshot_state(one.state).to_owned(),
            created: one.started,
            tags: one.tags.clone(),
            owner: None,
        });
    instances.chain(images).chain(snapshots).collect()
}

fn reap(
    state: &mut super::state::State,
    driver: &dyn super::driver::Driver,
    now: Timestamp,
    reaped: &mut Reaped,
) -> Result<(), InventoryError> {
    let failed = |id: &str| {
        let id = id.to_owned();
        move |source| InventoryError::Driver { id, source }
    };
    let is_orphan = |instance: &Instance| {
        instance.state != InstanceState::Terminated
            && instance.owner.is_some_and(|owner| !owner.is_alive())
    };
    let orphans = state.instances.values().filter(|one| is_orphan(one));
    let orphans: Vec<_> = orphans.map(|one| one.id.clone()).collect();
    for id in orphans {
        driver.terminate(&id).map_err(failed(&id))?;
        if let Some(instance) = state.instances.get_mut(&id)
            && instance.state != InstanceState::ShuttingDown
        {
            ec2::lifecycle::set_state(instance, InstanceState::ShuttingDown, None, now);
        }
        reaped.instances.push(id);
    }
    let orphans: Vec<_> = state
        .images
        .values()
        .filter(|image| image.state == Progress::Pending)
        .filter(|image| image.owner.is_some_and(|owner| !owner.is_alive()))
        .map(|image| (image.id.clone(), image.snapshot_id.clone()))
        .collect();
    for (image, snapshot) in orphans {
        driver
            .delete_snapshot(&snapshot)
            .map_err(failed(&snapshot))?;
        state.images.remove(&image);
        state.snapshots.remove(&snapshot);
        reaped.images.push(image);
        reaped.snapshots.push(snapshot);
    }
    ec2::lifecycle::refresh(state, driver, now);
    Ok(())
}
