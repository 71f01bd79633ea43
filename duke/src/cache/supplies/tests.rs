//! Jobs come and go while their supplies are made.

use distwasm_proto::failure::FailureKind;

use super::*;

const ONE: JobId = JobId(1);
const TWO: JobId = JobId(2);

fn digest(name: &str) -> Digest {
    Digest::of([name.as_bytes()])
}

fn program(name: &str, call: &str) -> Supply {
    let (digest, call) = (digest(name), call.to_owned());
    Supply::Program(Recipe { digest, deterministic: false, call, traps_unknown_imports: false })
}

fn made() -> Made {
    Made::Program("there".into())
}

fn is_complete(stock: &Stock) -> bool {
    matches!(stock, Stock::Complete(_))
}

fn go_on(supplies: &mut Supplies) -> Vec<Order> {
    let orders = supplies.go_on();
    supplies.check();
    orders
}

/// The program `p` is being made for job 1.
fn making(parallel: usize) -> (Supplies, Supply) {
    let (mut supplies, p) = (Supplies::new(parallel), program("p", ""));
    supplies.need(ONE, &p, || None);
    assert_eq!(go_on(&mut supplies), [Order::Ask(digest("p"))]);
    assert!(supplies.on_blob_arrived(digest("p")));
    assert_eq!(go_on(&mut supplies), [Order::Make(p.clone()), Order::Drop(digest("p"))]);
    (supplies, p)
}

#[test]
fn a_supply_of_two_jobs_is_made_once() {
    let (mut supplies, p) = making(1);
    let s = Supply::Share(digest("s"));
    supplies.need(TWO, &p, || None);
    supplies.need(TWO, &s, || Some(made()));
    assert_eq!(go_on(&mut supplies), []);
    assert!(!is_complete(&supplies.stock(&[p.clone(), s.clone()])));
    supplies.cancel(ONE);
    assert_eq!(go_on(&mut supplies), [], "the other job waits for it");
    assert_eq!(supplies.on_tried(&p, &Ok(made())), BTreeSet::from([TWO]));
    assert!(is_complete(&supplies.stock(&[p, s])));
}

#[test]
fn one_blob_may_be_made_into_several_things() {
    let (mut supplies, f, g) = (Supplies::new(1), program("p", "f"), program("p", "g"));
    supplies.need(ONE, &f, || None);
    supplies.need(TWO, &g, || None);
    assert_eq!(go_on(&mut supplies), [Order::Ask(digest("p"))]);
    assert!(supplies.on_blob_arrived(digest("p")));
    assert_eq!(go_on(&mut supplies), [Order::Make(f.clone())]);
    supplies.on_tried(&f, &Err(MakeError::Unfit(Failure::new(FailureKind::Program, "no f"))));
    assert_eq!(go_on(&mut supplies), [Order::Make(g.clone()), Order::Drop(digest("p"))]);
    assert!(matches!(supplies.stock(&[f]), Stock::Unfit(_)));
    assert!(matches!(supplies.stock(&[g]), Stock::Incomplete));
}

#[test]
fn a_supply_is_tried_again_after_trouble() {
    let (mut supplies, p) = making(1);
    assert_eq!(supplies.on_tried(&p, &Err(MakeError::Trouble(String::new()))), BTreeSet::from([ONE]));
    supplies.need(ONE, &p, || None);
    assert_eq!(go_on(&mut supplies), [Order::Ask(digest("p"))]);
}

#[test]
fn a_blob_that_the_king_forgot_is_asked_for_again() {
    let (mut supplies, p) = (Supplies::new(1), program("p", ""));
    supplies.need(ONE, &p, || None);
    assert_eq!(go_on(&mut supplies), [Order::Ask(digest("p"))]);
    supplies.cancel(ONE);
    supplies.need(TWO, &p, || None);
    assert_eq!(go_on(&mut supplies), [Order::Ask(digest("p"))]);
    assert!(supplies.on_blob_arrived(digest("p")));
    assert!(!supplies.on_blob_arrived(digest("p")), "it may come twice then");
    go_on(&mut supplies);
    assert!(!supplies.on_blob_arrived(digest("p")));
}

#[test]
fn no_more_is_made_at_a_time_than_may_be_and_the_order_is_kept() {
    let (mut supplies, p) = making(1);
    let (q, r, s) = (program("q", ""), program("r", ""), Supply::Share(digest("s")));
    for (job, supply) in [(5, &q), (3, &r), (4, &s)] {
        supplies.need(JobId(job), supply, || None);
    }
    let asked = ["q", "r", "s"].map(|name| Order::Ask(digest(name)));
    assert_eq!(go_on(&mut supplies), asked);
    for name in ["r", "q"] {
        assert!(supplies.on_blob_arrived(digest(name)));
    }
    assert_eq!(go_on(&mut supplies), []);
    assert!(supplies.on_blob_arrived(digest("s")));
    assert_eq!(
        go_on(&mut supplies),
        [Order::Make(s), Order::Drop(digest("s"))],
        "directories have places of their own"
    );
    supplies.on_tried(&p, &Ok(made()));
    assert_eq!(go_on(&mut supplies), [Order::Make(q), Order::Drop(digest("q"))]);
}

#[test]
fn only_a_few_blobs_are_asked_for_ahead() {
    let mut supplies = Supplies::new(1);
    for number in 0..3 * BLOBS_AHEAD_MAX {
        supplies.need(JobId(number as u64), &program(&number.to_string(), ""), || None);
    }
    assert_eq!(go_on(&mut supplies).len(), BLOBS_AHEAD_MAX);
    assert!(supplies.on_blob_arrived(digest("1")), "an earlier one has not come");
    let one = program("1", "");
    let next = Order::Ask(digest(&BLOBS_AHEAD_MAX.to_string()));
    assert_eq!(go_on(&mut supplies), [Order::Make(one.clone()), Order::Drop(one.digest()), next]);
    supplies.cancel(JobId(0));
    assert_eq!(go_on(&mut supplies).len(), 1);
}

#[test]
fn what_no_job_waits_for_is_stopped_and_keeps_its_place_until_it_has_ended() {
    let (mut supplies, p) = making(1);
    let q = program("q", "");
    supplies.need(TWO, &q, || None);
    go_on(&mut supplies);
    assert!(supplies.on_blob_arrived(digest("q")));
    supplies.cancel(ONE);
    assert_eq!(go_on(&mut supplies), [Order::Stop(p.clone())]);
    assert_eq!(go_on(&mut supplies), []);
    assert!(supplies.on_tried(&p, &Err(MakeError::Stopped)).is_empty());
    assert_eq!(go_on(&mut supplies), [Order::Make(q.clone()), Order::Drop(digest("q"))]);
    supplies.cancel(TWO);
    assert!(supplies.on_tried(&q, &Ok(made())).is_empty());
    assert!(!is_complete(&supplies.stock(&[q])), "a supply that no job needs is not kept");
    assert!(supplies.is_empty());
}

#[test]
fn what_is_wanted_again_while_it_stops_is_made_once_more() {
    for in_time in [false, true] {
        let (mut supplies, p) = making(1);
        supplies.cancel(ONE);
        assert_eq!(go_on(&mut supplies), [Order::Stop(p.clone())]);
        supplies.need(TWO, &p, || None);
        assert_eq!(go_on(&mut supplies), []);
        let result = if in_time { Ok(made()) } else { Err(MakeError::Stopped) };
        assert_eq!(supplies.on_tried(&p, &result).len(), usize::from(in_time));
        let again = [Order::Ask(digest("p"))];
        assert_eq!(go_on(&mut supplies), if in_time { &[] } else { again.as_slice() });
    }
}

#[test]
fn supplies_that_no_job_needs_are_dropped() {
    let mut supplies = Supplies::new(1);
    let (p, s) = (program("p", ""), Supply::Share(digest("s")));
    for supply in [&p, &s] {
        supplies.need(ONE, supply, || Some(made()));
    }
    supplies.keep(|supply| *supply == p);
    assert!(is_complete(&supplies.stock(std::slice::from_ref(&p))));
    assert!(!is_complete(&supplies.stock(&[s])));
    supplies.spoil(&p);
    assert!(!is_complete(&supplies.stock(&[p])));
}
