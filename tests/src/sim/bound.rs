//! What one more duke costs or gains a job, with links of every speed: at most a tenth of the job's time.

use super::{Dice, QueenPlan, Slowness, World};

/// A duke: its processors and its link.
pub type Duke = (u32, Slowness);

/// The time that a kibibyte takes, in microseconds: on links that carry a kilobyte to a gigabyte a second.
const SPEEDS: [u64; 7] = [1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];

/// What a duke may cost besides: until a straggler, or a result in transit, counts as one, and its unit has been tried
/// again on the slowest of the links that are good for it.
const PATIENCE_US: u64 = 2_000_000;

/// When a job ends on these dukes without faults, in microseconds.
pub fn takes_us(dukes: &[Duke], plan: &QueenPlan) -> u64 {
    let cpus: Vec<u32> = dukes.iter().map(|(cpus, _)| *cpus).collect();
    let mut world = World::fair(&cpus, vec![plan.clone()]);
    for (place, (_, slowness)) in dukes.iter().enumerate() {
        world.slow_down(place, *slowness);
    }
    world.run_until_done().0
}

/// Runs a job on some dukes, and on one more.
///
/// # Panics
///
/// When it takes longer with the other one.
pub fn a_duke_more_makes_no_job_slower(seed: u64) {
    let mut dice = Dice::new(seed);
    let plan = any_job(&mut dice);
    let mut dukes: Vec<Duke> = (0..1 + dice.below(2)).map(|_| any_duke(&mut dice)).collect();
    let without = takes_us(&dukes, &plan);
    let place = dice.below(dukes.len() as u64 + 1) as usize;
    dukes.insert(place, any_duke(&mut dice));
    let with = takes_us(&dukes, &plan);
    let longest_us = plan.units.iter().map(|unit| unit.run_us).max().unwrap_or(0);
    let most = without + without / 10 + PATIENCE_US + longest_us;
    let (units, first) = (plan.units.len(), plan.units.first());
    assert!(
        with <= most,
        "a_duke_more_makes_no_job_slower: {with} instead of {without} µs with duke {place} of {dukes:?}: {units} units \
         like {first:?}"
    );
}

fn any_job(dice: &mut Dice) -> QueenPlan {
    let units = dice.pick(&[50, 200, 200, 1000]);
    let run_us = dice.pick(&[100, 5_000, 100_000]);
    let input_bytes = dice.pick(&[1, 9_000, 9_000, 300_000]);
    let result_bytes = dice.pick(&[1, 1, 9_000]);
    let mut plan = QueenPlan::steady("job", units, run_us);
    let vary = dice.permille(300);
    for unit in &mut plan.units {
        (unit.input_bytes, unit.result_bytes) = (input_bytes, result_bytes);
        if vary {
            unit.input_bytes = 1 + dice.below(2 * input_bytes);
            unit.run_us = 1 + dice.below(2 * run_us);
        }
    }
    plan
}

fn any_duke(dice: &mut Dice) -> Duke {
    let (us_per_kib, delay_us_max) = (dice.pick(&SPEEDS), dice.pick(&[0, 0, 10_000, 200_000]));
    (1 + dice.below(4) as u32, Slowness { delay_us_max, us_per_kib })
}
