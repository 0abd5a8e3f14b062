//! What the supervisor and the threads of its commands know of the machine together.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The machine's boots, counted, and whether its agent is online.
#[derive(Debug, Default)]
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Which boot this is, from 1; commands end with the boot that they run in.
    boot: u64,
    /// Process id of the machine's init, while its agent is online.
    online: Option<u32>,
    /// The machine has been asked from inside to boot again.
    reboot: bool,
    /// It will not come back.
    over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A boot has begun.
    pub fn booting(&self) {
        let mut state = self.lock();
        state.boot += 1;
        state.online = None;
        state.reboot = false;
        self.changed.notify_all();
    }

    /// The boot has finished: commands may run under this init.
    pub fn online(&self, leader: u32) {
        self.lock().online = Some(leader);
        self.changed.notify_all();
    }

    /// The machine is going down; with `over` for good.
    pub fn offline(&self, over: bool) {
        let mut state = self.lock();
        state.online = None;
        state.over |= over;
        // The commands of this boot are over.
        state.boot += 1;
        self.changed.notify_all();
    }

    /// Whether the agent is online.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.lock().online.is_some()
    }

    /// Whether this boot is still the current one.
    #[must_use]
    pub fn is_boot(&self, boot: u64) -> bool {
        self.lock().boot == boot
    }

    /// Asks for a reboot on behalf of a command of that boot.
    pub fn request_reboot(&self, boot: u64) {
        let mut state = self.lock();
        if state.boot == boot {
            state.reboot = true;
        }
    }

    /// Whether a command has asked for a reboot; asked for once.
    #[must_use]
    pub fn take_reboot(&self) -> bool {
        std::mem::take(&mut self.lock().reboot)
    }

    /// Waits for the agent; gives the init's process id and the boot. `None` after the deadline or the machine's end.
    #[must_use]
    pub fn wait_online(&self, deadline: Instant) -> Option<(u32, u64)> {
        let state = self.wait(deadline, |state| state.online.is_some() || state.over);
        state.online.map(|leader| (leader, state.boot))
    }

    /// Waits until that boot is over, or the deadline.
    pub fn wait_boot_after(&self, boot: u64, deadline: Instant) {
        drop(self.wait(deadline, |state| state.boot != boot || state.over));
    }

    fn wait(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), limit, |state| !done(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_command_waits_for_the_boot_after_its_own() {
        let shared = Shared::default();
        shared.booting();
        shared.online(7);
        let soon = Instant::now() + Duration::from_secs(5);
        let (leader, boot) = shared.wait_online(soon).unwrap();
        assert_eq!(leader, 7);
        shared.request_reboot(boot);
        assert!(shared.take_reboot());
        assert!(!shared.take_reboot());
        shared.offline(false);
        assert!(!shared.is_boot(boot));
        shared.wait_boot_after(boot, soon);
        shared.booting();
        shared.online(8);
        assert_eq!(shared.wait_online(soon).unwrap().0, 8);
        shared.offline(true);
        assert_eq!(shared.wait_online(soon), None);
    }
}
