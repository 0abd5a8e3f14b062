//! What is in two images, told by a machine of each: where disks cannot be read here, as on AWS.
//!
//! A machine lists its own files (`templates/list.sh`) into a file in memory. SSM gives 24,000 characters of what a command
//! prints (`GetCommandInvocation`, `StandardOutputContent`), so the file comes in parts, some at a time.

use std::collections::VecDeque;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::super::error::Failure;
use super::super::event::{self, Event, Resource};
use super::super::images::Image;
use super::super::run::Run;
use super::commands::{SHORT, begin, command, end, success};
use super::launch::{self, Machine};
use crate::aws::ssm::{self, Verdict};
use crate::aws::wait::Patience;
use crate::image::tree::listing::{Listing, Packing};

const LIST: &str = include_str!("../../../templates/list.sh");
/// Where a machine keeps its list: in memory, on a file system that it does not list.
const DIR: &str = "/run/piaas-bake-list";
/// What a machine may take to read all its files: those of a new volume come from its snapshot, at a few MB/s.
const READING: Duration = Duration::from_secs(3600);
/// Bytes of a part: 23,600 characters of base64.
const PART: usize = 17_700;
/// Parts of both machines that are on their way. An agent runs five commands at the same time (amazon-ssm-agent,
/// `CommandWorkersLimit`).
const PARTS: usize = 8;
const WHAT: &str = "list what is in the image";

const LOOKS: Patience = Patience {
    what: "a machine to read its files",
    stall: READING,
    first: Duration::from_millis(300),
    longest: Duration::from_secs(5),
};

/// A machine that lists.
struct Lister<'a> {
    image: &'a Image,
    instance: String,
    /// The command under way.
    command: String,
    percent: Option<u8>,
    made: Option<Made>,
}

/// A list that lies on its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    bytes: usize,
    /// Of the packed list, in hex.
    sha256: String,
    packing: Packing,
}

/// Launches a machine of each image, lets both list what is on them, and fetches that.
pub async fn both(
    run: &mut Run<'_>,
    groups: &[String],
    images: [&Image; 2],
    source_date: i64,
) -> Result<[Listing; 2], Failure> {
    let mut instances = Vec::new();
    for (step, image) in ["list-first", "list-second"].into_iter().zip(images) {
        let machine = Machine {
            kind: Resource::Tester,
            step,
            image,
            of: &image.name,
            groups,
            gib: image.size_gib,
        };
        instances.push(launch::launch(run, machine).await?.1);
    }
    for instance in &instances {
        launch::online(run, instance).await?;
    }
    let mut listers = Vec::new();
    for (image, instance) in images.into_iter().zip(instances) {
        let script = LIST.replace("@DIR@", DIR);
        listers.push(Lister {
            command: begin(run, &instance, &script, READING, WHAT).await?,
            image,
            instance,
            percent: None,
            made: None,
        });
    }
    read(run, &mut listers).await?;
    let packed = fetch(run, &mut listers).await?;
    let mut all = Vec::new();
    for (lister, bytes) in listers.iter().zip(packed) {
        let packing = lister.made().packing;
        let listing = Listing::read(&bytes, packing, source_date);
        all.push(listing.map_err(|error| lister.failed(error.to_string()))?);
    }
    Ok(all.try_into().expect("there is a list of each of the two"))
}

impl Lister<'_> {
    fn failed(&self, reason: String) -> Failure {
        Failure::NotListed {
            instance: self.instance.clone(),
            reason,
        }
    }

    fn made(&self) -> &Made {
        self.made
            .as_ref()
            .expect("lists are fetched once they are made")
    }

    /// Tells how far it is, where that is worth a line.
    fn tell(&mut self, run: &Run<'_>, doing: event::Listing, done: usize, all: usize) {
        let percent = u8::try_from(done.min(all) * 100 / all.max(1)).unwrap_or(100);
        if self.percent.is_none_or(|told| percent >= told + 10) {
            self.percent = Some(percent);
            run.emit(Event::Listing {
                image: self.image.id.clone(),
                doing,
                percent,
            });
        }
    }
}

/// Waits until all have made their lists.
async fn read(run: &mut Run<'_>, listers: &mut [Lister<'_>]) -> Result<(), Failure> {
    let mut pace = run.pace(LOOKS);
    loop {
        let mut state = String::new();
        for lister in listers.iter_mut().filter(|lister| lister.made.is_none()) {
            let seen = ssm::invocation(run.clients, &lister.instance, &lister.command).await?;
            if seen.is_some_and(|seen| seen.verdict != Verdict::Underway) {
                let ended = end(run, &lister.instance, &lister.command, READING).await?;
                let said = success(&lister.instance, WHAT, ended)?.stdout;
                let made = made(&said);
                lister.made = Some(made.ok_or_else(|| {
                    lister.failed(format!("it says `{}`", said.trim().escape_debug()))
                })?);
                continue;
            }
            let script = format!("cat {DIR}/count && cat {DIR}/sums.* | tr -cd '\\0' | wc -c");
            // As long as it has not begun there is nothing to count.
            let script = format!("{{ {script}; }} 2>/dev/null || :");
            let said = command(run, &lister.instance, "ask for the progress", &script).await?;
            let numbers = said.stdout.split_whitespace().map(str::parse::<usize>);
            if let [Ok(all), Ok(done)] = numbers.collect::<Vec<_>>()[..] {
                lister.tell(run, event::Listing::Read, done, all);
            }
            state.push_str(&said.stdout);
        }
        if listers.iter().all(|lister| lister.made.is_some()) {
            return Ok(());
        }
        run.pause(&mut pace, &state).await?;
    }
}

/// The last line of the script.
fn made(said: &str) -> Option<Made> {
    let words: Vec<&str> = said.lines().last()?.split(' ').collect();
    let ["list", bytes, sha256, packing] = words[..] else {
        return None;
    };
    Some(Made {
        bytes: bytes.parse().ok()?,
        sha256: sha256.to_owned(),
        packing: Packing::parse(packing)?,
    })
}

/// The command that prints a part of a list.
fn part(number: usize) -> String {
    let from = number * PART + 1;
    format!("set -e\ntail -c +{from} {DIR}/list | head -c {PART} | base64 -w 0")
}

/// Fetches the lists, part by part.
async fn fetch(run: &mut Run<'_>, listers: &mut [Lister<'_>]) -> Result<Vec<Vec<u8>>, Failure> {
    let counts = listers
        .iter()
        .map(|lister| lister.made().bytes.div_ceil(PART));
    let counts: Vec<usize> = counts.collect();
    let most = counts.iter().copied().max().unwrap_or(0);
    // A part of one, a part of the other: both machines have something to do.
    let mut to_come = (0..most).flat_map(|number| {
        let places = counts.iter().enumerate();
        let places = places.filter(move |(_, count)| number < **count);
        places.map(move |(place, _)| (place, number))
    });
    let mut packed: Vec<Vec<u8>> = listers.iter().map(|_| Vec::new()).collect();
    for lister in listers.iter_mut() {
        lister.percent = None;
    }
    let mut on_the_way: VecDeque<(usize, String)> = VecDeque::new();
    loop {
        while on_the_way.len() < PARTS {
            let Some((place, number)) = to_come.next() else {
                break;
            };
            let instance = &listers[place].instance;
            let id = begin(run, instance, &part(number), SHORT, "fetch its list").await?;
            on_the_way.push_back((place, id));
        }
        let Some((place, id)) = on_the_way.pop_front() else {
            break;
        };
        let lister = &mut listers[place];
        let ended = end(run, &lister.instance, &id, SHORT).await?;
        let said = success(&lister.instance, "fetch its list", ended)?.stdout;
        let bytes = STANDARD
            .decode(said.trim())
            .map_err(|error| lister.failed(format!("a part of it is broken: {error}")))?;
        packed[place].extend(bytes);
        let (done, all) = (packed[place].len(), lister.made().bytes);
        lister.tell(run, event::Listing::Fetch, done, all);
    }
    for (lister, bytes) in listers.iter().zip(&packed) {
        let sum = hex::encode(Sha256::digest(bytes));
        if sum != lister.made().sha256 {
            let made = lister.made();
            let what = format!(
                "{} bytes have come of {}, with another checksum",
                bytes.len(),
                made.bytes
            );
            return Err(lister.failed(what));
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_script_says_what_there_is_to_fetch() {
        let sha256 = "ab".repeat(32);
        let found = made(&format!("something else\nlist 7 {sha256} xz\n")).unwrap();
        let packing = Packing::Xz;
        let bytes = 7;
        assert_eq!(
            found,
            Made {
                bytes,
                sha256,
                packing
            }
        );
        for other in ["", "list 7 ab", "list x ab gzip", "list 7 ab zip"] {
            assert_eq!(made(other), None, "{other}");
        }
    }

    #[test]
    fn parts_are_below_the_limit_of_an_output_and_meet_without_a_gap() {
        assert!(PART.div_ceil(3) * 4 <= 24_000);
        let list: Vec<u8> = (0..PART * 2 + 9).map(|n| (n % 251) as u8).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("list"), &list).unwrap();
        let mut came = Vec::new();
        for number in 0..list.len().div_ceil(PART) {
            let script = part(number).replace(DIR, dir.path().to_str().unwrap());
            let mut sh = std::process::Command::new("sh");
            let output = sh.args(["-c", &script]).output().unwrap();
            came.extend(STANDARD.decode(output.stdout).unwrap());
        }
        assert_eq!(came, list);
    }
}
