//! Files that people write for fleets, for the local cloud and for the program, and the small records that it keeps in
//! Parameter Store, where others can write too. Each reader gets the same text.

use std::path::Path;

use jiff::Timestamp;

use super::machine::same;
use super::recipe::judge_text;
use crate::cli::config::ConfigFile;
use crate::fleet::config::{self, Wanted};
use crate::fleet::memory::{Log, Memory};
use crate::lease::Term;
use crate::localcloud::faults::Faults;
use crate::localcloud::wire::Service;
use crate::roll::record::{RecordError, RollRecord};

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    fleet(&text);
    faults(&text);
    if let Err(error) = ConfigFile::parse(&text) {
        assert!(!error.to_string().is_empty());
    }
    records(&text);
}

fn fleet(text: &str) {
    match config::parse(Path::new("fleet.yaml"), text.to_owned()) {
        Err(found) => {
            assert!(!found.is_empty(), "an error without a reason");
            judge_text(&found, text);
        }
        Ok(config) => {
            let policy = &config.policy;
            assert!(policy.min_idle <= 1000 && policy.spare <= 1000);
            assert!((1..=100).contains(&policy.queue_percent));
            assert!((1..=100).contains(&policy.drain_percent));
            assert!((1..=50).contains(&policy.launch_most));
            for time in [policy.idle_after, policy.boot_deadline, policy.leak_after] {
                assert!((1..=48 * 3600).contains(&time.as_secs()), "{time:?}");
            }
            // Of what is asked for over a network, the client is made when it is used.
            if matches!(config.demand, Wanted::Command(_)) {
                config.demand.source(|_| None).expect("it has a command");
            }
        }
    }
}

/// A script meddles as it says, and no more often.
fn faults(text: &str) {
    match Faults::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(faults) => {
            for service in [Service::Ec2, Service::S3, Service::AutoScaling] {
                for operation in ["DescribeInstances", "RunInstances", "PutObject"] {
                    let _ = faults.on_request(service, operation);
                }
            }
        }
    }
}

fn records(text: &str) {
    let now = Timestamp::from_second(1_767_268_800).expect("2026 is a year");
    if let Ok(record) = RollRecord::from_json("p", text) {
        match record.to_json() {
            Ok(json) => {
                let read = RollRecord::from_json("p", &json).expect("what is written is read");
                assert_eq!(read, record);
            }
            Err(RecordError::TooLarge { size }) => assert!(size > 4096),
            Err(error) => panic!("{error}"),
        }
    }
    if let Ok(memory) = Memory::from_json("p", text) {
        for id in memory.ending.keys() {
            let _ = memory.ends(id).map(|ending| ending.is_fresh(now));
        }
    }
    same::<Memory>(text);
    same::<Log>(text);
    same::<Term>(text);
    if let Ok(term) = serde_json::from_str::<Term>(text) {
        assert!(term.may_hold(now) || term.expires < now);
    }
}
