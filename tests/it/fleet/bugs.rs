//! Known bugs, put in round the decision: what it sees, or what it says, is made wrong.

use jiff::{SignedDuration, Timestamp};
use piaas_bake::fleet::decide::{Decision, Plan, Turn};
use piaas_bake::fleet::memory::Memory;
use piaas_bake::fleet::policy::Policy;
use piaas_bake::fleet::world::{CiState, Demand, Life, Said, State, Word, World};
use piaas_bake::fleet::{Brain, Core};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    UnknownIsIdle,
    NoSecondLook,
    DecrementTwice,
    MissingIsIdle,
    NewToken,
}

pub struct Buggy(Bug);

impl Buggy {
    pub fn new(bug: Bug) -> Self {
        Self(bug)
    }
}

/// As if the worker had said that it is idle for an hour.
fn idle(now: Timestamp) -> Word {
    Word::Said(Said {
        state: State::Idle,
        since: Some(now - SignedDuration::from_hours(1)),
        at: now,
        why: None,
        jobs: Vec::new(),
        cordon: None,
        drained: None,
    })
}

impl Brain for Buggy {
    fn decide(
        &self,
        world: &World,
        policy: &Policy,
        memory: &Memory,
        turn: Turn,
        now: Timestamp,
    ) -> Plan {
        let (mut world, mut memory) = (world.clone(), memory.clone());
        let serving = world.group.members.iter_mut();
        let serving = serving.filter(|member| member.life == Life::InService);
        match self.0 {
            Bug::UnknownIsIdle => {
                for member in serving {
                    let unknown = match &member.word {
                        Word::Silent(_) => true,
                        Word::Said(said) => said.state == State::Unknown && said.cordon.is_none(),
                    };
                    if unknown {
                        member.word = idle(now);
                    }
                }
            }
            Bug::NoSecondLook => {
                for member in serving {
                    if let Word::Said(said) = &mut member.word {
                        said.drained = said.cordon.as_ref().map(|cordon| cordon.generation);
                    }
                }
            }
            Bug::MissingIsIdle => {
                if let Demand::Known {
                    workers: Some(workers),
                    ..
                } = &mut world.demand
                {
                    for member in serving {
                        workers.entry(member.id.clone()).or_insert(CiState::Idle);
                    }
                }
            }
            Bug::NewToken => memory.launch = memory.launch.filter(|launch| launch.made.is_some()),
            Bug::DecrementTwice => {}
        }
        let mut plan = Core.decide(&world, policy, &memory, turn, now);
        if self.0 == Bug::DecrementTwice {
            let again = memory.ending.keys().map(|id| Decision::Terminate {
                id: id.clone(),
                decrement: true,
                why: "nobody looked whether it was done".into(),
            });
            plan.decisions.extend(again);
        }
        plan
    }
}
