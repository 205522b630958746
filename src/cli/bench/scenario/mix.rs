//! Many functions of many users, some asked for often and most of them rarely (Zipf's law).

use perf::Dice;
use pilotlight::socket::request::Invoke;
use serde_json::json;

use super::super::super::fault::Fault;
use super::super::lab::{Lab, Question, serve};
use super::super::measured::Measured;
use super::super::program::{PAYLOAD_BYTES, Program, payload};

const FUNCTIONS: usize = 100;
const USERS: usize = 20;
/// Draws that are made beforehand; then they begin again.
const DRAWS: usize = 1 << 14;
/// The same draws in each run, so that two runs can be compared.
const SEED: u64 = 20;
/// Functions by turns: most are resident.
const PROGRAMS: [Program; 4] =
    [Program::ECHO_STREAM, Program::ECHO_STREAM, Program::ECHO_STREAM, Program::ECHO];

/// A function of a user.
struct Entry {
    user: String,
    name: String,
}

/// Each function is invoked once, untimed, then in the proportions of Zipf's law.
pub(super) fn measure(lab: &mut Lab<'_>) -> Result<Measured, Fault> {
    let mut measured = lab.measured();
    lab.subject.await_warm()?;
    let users: Vec<String> = (0..USERS).map(|_| lab.subject.new_user()).collect();
    let mut entries = Vec::new();
    for number in 0..FUNCTIONS {
        let (user, name) = (users[number % USERS].clone(), format!("bench-mix-{number}"));
        // Users have some of each kind: neighbours in number belong to different ones.
        let program = PROGRAMS[number / USERS % PROGRAMS.len()];
        lab.subject.client.deploy((&user, &name), &program.package())?;
        entries.push(Entry { user, name });
    }
    let payload = payload(PAYLOAD_BYTES);
    for Entry { user, name } in &entries {
        lab.subject.client.invoke(&Invoke { user, ..Invoke::new(name, &payload) })?;
    }
    lab.subject.settle()?;
    let (draws, plan) = (draws(DRAWS), lab.plan);
    let mut drawn = 0;
    let mut rooms = [0_u64; 3];
    lab.rounds(&mut measured, &mut |subject, count, measured| {
        let invoke = |number: u64| {
            let draw = usize::try_from(number).unwrap_or(0).wrapping_add(drawn) % DRAWS;
            let Entry { user, name } = &entries[draws[draw]];
            Invoke { user, ..Invoke::new(name, &payload) }
        };
        let mut seen = |done: &pilotlight::client::Completed| rooms[done.room as usize % 3] += 1;
        let mut question = Question { invoke: &invoke, seen: &mut |_, _, done| seen(done) };
        serve(subject, (plan, count), &mut question, measured)?;
        drawn = (drawn + usize::try_from(count).unwrap_or(0)) % DRAWS;
        Ok(())
    })?;
    let [_, active, warming] = rooms;
    measured.extra.insert("rooms".to_owned(), json!({ "active": active, "warming": warming }));
    for Entry { user, name } in &entries {
        lab.subject.client.remove(user, name)?;
    }
    Ok(measured)
}

/// Functions by Zipf's law with exponent 1: the n-th is asked for 1/n times as often as the first.
fn draws(count: usize) -> Vec<usize> {
    let weights = (1..=FUNCTIONS).map(|rank| 1.0 / rank as f64);
    let mut sums: Vec<f64> = weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect();
    let all = sums.pop().unwrap_or(1.0);
    let mut dice = Dice::new(SEED);
    let mut draw = || dice.unit() * all;
    (0..count)
        .map(|_| {
            let drawn = draw();
            sums.partition_point(|sum| *sum <= drawn)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_law() {
        let draws = draws(200_000);
        let share = |rank: usize| {
            draws.iter().filter(|draw| **draw == rank).count() as f64 / draws.len() as f64
        };
        let harmonic: f64 = (1..=FUNCTIONS).map(|rank| 1.0 / rank as f64).sum();
        for rank in [0, 1, 9, FUNCTIONS - 1] {
            let expected = 1.0 / (rank + 1) as f64 / harmonic;
            let found = share(rank);
            assert!((found / expected - 1.0).abs() < 0.15, "rank {rank}: {found} {expected}");
        }
        assert!(draws.iter().all(|draw| *draw < FUNCTIONS));
    }
}
