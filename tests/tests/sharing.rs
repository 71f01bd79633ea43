//! How jobs share the slots of a kingdom, over half a minute of simulated time.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::collections::BTreeMap;

use distwasm_proto::time::Time;
use distwasm_tests::sim::{Nature, QueenPlan, Slowness, World};

/// More work than there is time for.
fn endless(project: &str) -> QueenPlan {
    QueenPlan::steady(project, 500, 400_000)
}

/// More work for `slots` slots than there is time for, with units that are as short as possible.
fn endless_on(slots: u32, project: &str) -> QueenPlan {
    QueenPlan::steady(project, 500, 40_000 * u64::from(slots))
}

/// The part of all slot time that each project gets between seconds 1 and 31, in thousandths.
fn shares(dukes: &[u32], plans: Vec<QueenPlan>) -> BTreeMap<String, u32> {
    let mut world = World::fair(dukes, plans);
    let mut slots: BTreeMap<String, u32> = BTreeMap::new();
    for hundredth in 100..3100 {
        world.run_until(Time(hundredth * 10_000));
        for (project, number) in world.slots_of_projects() {
            *slots.entry(project.to_owned()).or_default() += number;
        }
    }
    let all: u32 = slots.values().sum();
    slots.into_iter().map(|(project, number)| (project, (number * 1000 + all / 2) / all)).collect()
}

fn expect_shares(dukes: &[u32], weights: &[u32], tolerance: u32) {
    let project = |number: usize| format!("project {number}");
    let plan = |(number, weight): (usize, &u32)| QueenPlan {
        weight: *weight,
        ..endless_on(dukes.iter().sum(), &project(number))
    };
    let found = shares(dukes, weights.iter().enumerate().map(plan).collect());
    let all: u32 = weights.iter().sum();
    for (number, weight) in weights.iter().enumerate() {
        let (is, fair) = (found.get(&project(number)).copied().unwrap_or(0), 1000 * weight / all);
        assert!(is.abs_diff(fair) * 1000 <= tolerance * fair, "{dukes:?} for {weights:?}: {found:?}");
    }
}

#[test]
fn slots_are_shared_by_weight() {
    for dukes in [[6].as_slice(), &[12], &[4, 4, 4], &[3, 3]] {
        expect_shares(dukes, &[1, 2, 3], 50);
    }
}

#[test]
fn too_few_slots_are_shared_by_taking_turns() {
    for dukes in [[4].as_slice(), &[1, 1, 1, 1, 1]] {
        expect_shares(dukes, &[1, 2, 3], 50);
    }
    // A turn takes a second: thirty turns, plus or minus one for each project.
    expect_shares(&[1], &[1, 2, 3], 200);
    expect_shares(&[1], &[1, 1, 1], 100);
}

#[test]
fn a_project_with_many_jobs_gets_no_more() {
    let plans = vec![endless("one"), endless("two"), endless("two"), endless("two")];
    let found = shares(&[8], plans);
    assert_eq!(found.get("one"), Some(&500), "{found:?}");
}

#[test]
fn a_job_of_higher_priority_comes_first_within_its_project() {
    let low = QueenPlan { units: endless("a").units[..75].to_vec(), ..endless("a") };
    let high = QueenPlan { priority: 1, comes_us: 1_000_000, ..low.clone() };
    let mut world = World::fair(&[4], vec![low, high]);
    // Four slots need 7.5 s for the units of one job.
    world.run_until(Time(8_000_000));
    let done = |world: &World| world.units_done();
    let halfway = done(&world);
    assert!(halfway[1] > 55 && halfway[0] < 25, "{halfway:?}");
    world.run_until(Time(20_000_000));
    assert_eq!(done(&world), [75, 75]);
}

#[test]
fn a_job_never_has_more_slots_than_it_wants() {
    let modest = QueenPlan { max_parallel: Some(2), ..endless("modest") };
    let mut world = World::fair(&[3, 3], vec![modest, endless("other")]);
    for tenth in 20..60 {
        world.run_until(Time(tenth * 100_000));
        let slots = world.slots_of_projects();
        assert_eq!((slots["modest"], slots["other"]), (2, 4), "after {tenth} tenths of a second");
    }
}

/// How many units of the first project are done between seconds 16 and 36. Which links are slow may turn out only
/// when the first result over each of them is overdue.
fn done_in_20_s(dukes: &[u32], plans: Vec<QueenPlan>, slow_duke: Option<(usize, Slowness)>) -> usize {
    let mut world = World::fair(dukes, plans);
    if let Some((duke, slowness)) = slow_duke {
        world.slow_down(duke, slowness);
    }
    let mut done_at = |second: u64| {
        world.run_until(Time(second * 1_000_000));
        world.units_done().first().copied().unwrap()
    };
    let before = done_at(16);
    done_at(36) - before
}

#[test]
fn slots_that_a_loop_holds_go_to_the_job_that_is_owed_them_in_time() {
    let mut loops = QueenPlan { priority: 100, ..endless("loops") };
    loops.units.iter_mut().for_each(|unit| unit.nature = Nature::Hangs);
    let owed = QueenPlan { weight: 1000, comes_us: 5_000_000, ..endless("owed") };
    let slots_at = |preempt_after_us, second: u64| {
        let mut world = World::preempting(preempt_after_us, &[5], vec![loops.clone(), owed.clone()]);
        world.run_until(Time(second * 1_000_000));
        world.slots_of_projects().get("owed").copied().unwrap_or(0)
    };
    assert_eq!(slots_at(0, 600), 0, "without preemption a loop keeps its slots");
    assert_eq!(slots_at(10_000_000, 14), 0, "they are not taken early");
    assert!(slots_at(10_000_000, 16) >= 4);
}

#[test]
fn a_unit_that_takes_longer_than_slots_may_ends_all_the_same() {
    // Each unit takes 7 s, and slots are taken after 1 s.
    let long = |project: &str| QueenPlan::steady(project, 4, 7_000_000);
    let mut world = World::preempting(1_000_000, &[1], vec![long("one"), long("other")]);
    world.run_until(Time(200_000_000));
    assert_eq!(world.units_done(), [4, 4]);
}

#[test]
fn a_queen_that_reads_no_results_costs_others_nothing() {
    let other = || QueenPlan::steady("other", 4000, 50_000);
    let mut deaf = QueenPlan { reads_every_us: u64::MAX / 2, ..QueenPlan::steady("deaf", 4000, 50_000) };
    deaf.units.iter_mut().for_each(|unit| unit.result_bytes = 1 << 20);
    let alone = done_in_20_s(&[4], vec![other()], None);
    let beside = done_in_20_s(&[4], vec![other(), deaf], None);
    assert!(alone >= 1400 && beside * 100 >= alone * 95, "{beside} instead of {alone}");
}

#[test]
fn a_slow_queen_has_no_more_slots_than_it_can_use() {
    let other = || QueenPlan::steady("other", 4000, 50_000);
    // Four slots could make 80 MiB of results a second, but the queen reads only 2.
    let mut slow = QueenPlan { reads_every_us: 500_000, ..QueenPlan::steady("slow", 4000, 50_000) };
    slow.units.iter_mut().for_each(|unit| unit.result_bytes = 1 << 20);
    let alone = done_in_20_s(&[4], vec![other()], None);
    let beside = done_in_20_s(&[4], vec![other(), slow], None);
    assert!(beside * 100 >= alone * 90, "{beside} instead of {alone}");
}

#[test]
fn a_duke_with_a_slow_link_does_not_slow_down_others() {
    let job = || vec![QueenPlan::steady("job", 8000, 50_000)];
    let alone = done_in_20_s(&[4], job(), None);
    let beside = done_in_20_s(&[4, 4], job(), Some((1, Slowness { delay_us_max: 10_000_000, us_per_kib: 0 })));
    assert!(beside * 100 >= alone * 95, "{beside} instead of {alone}");
}

/// A kilobyte a second.
const SLOW: Slowness = Slowness { delay_us_max: 0, us_per_kib: 1_000_000 };

fn with_results(units: usize, run_us: u64, result_bytes: u64) -> Vec<QueenPlan> {
    let mut job = QueenPlan::steady("job", units, run_us);
    job.units.iter_mut().for_each(|unit| unit.result_bytes = result_bytes);
    vec![job]
}

#[test]
fn large_results_over_a_slow_link_do_not_slow_down_others() {
    for (result_bytes, run_us) in [(1 << 20, 50_000), (40 << 20, 500_000), (100 << 20, 500_000)] {
        let job = || with_results(4000, run_us, result_bytes);
        let alone = done_in_20_s(&[4], job(), None);
        let beside = done_in_20_s(&[4, 4], job(), Some((1, SLOW)));
        assert!(beside * 100 >= alone * 90, "{result_bytes}: {beside} instead of {alone}");
    }
}

#[test]
fn a_job_does_not_end_with_the_slowest_links() {
    for (result_bytes, run_us) in [(1 << 20, 50_000), (40 << 20, 500_000)] {
        for slow in [&[1][..], &[0, 2]] {
            let mut world = World::fair(&vec![4; slow.len() + 1], with_results(80, run_us, result_bytes));
            slow.iter().for_each(|duke| world.slow_down(*duke, SLOW));
            // The time that the fast duke alone needs, and the time until the others count as overdue.
            world.run_until(Time(20 * run_us + 16_000_000));
            assert_eq!(world.units_done(), [80], "{result_bytes}, {slow:?}");
        }
    }
}

#[test]
fn slots_behind_a_full_link_serve_others() {
    // Eight slots make 160 MiB of results a second, but the link carries only one.
    let plans = [vec![QueenPlan::steady("other", 6000, 50_000)], with_results(4000, 50_000, 1 << 20)].concat();
    let mut world = World::fair(&[8], plans);
    world.slow_down(0, Slowness { delay_us_max: 0, us_per_kib: 1000 });
    let slots = (30..300).map(|tenth| {
        world.run_until(Time(tenth * 100_000));
        world.slots_of_projects()["other"]
    });
    let average = f64::from(slots.sum::<u32>()) / 270.0;
    assert!(average > 5.5, "{average} of 8, where 4 are its share");
}
