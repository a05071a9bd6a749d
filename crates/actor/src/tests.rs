use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

const WAIT: Duration = Duration::from_secs(10);
/// More than any test here sends: a probe never waits.
const SEEN_MAX: usize = 65_536;

/// Tells what it gets; blocks its plane while it holds `Hold`.
struct Probe {
    seen: mpsc::SyncSender<(Option<u16>, Say)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Say {
    Number(u32),
    Hold(HoldUntil),
    Panic,
    Stop,
    Tick,
    Stopped,
}

#[derive(Debug)]
struct HoldUntil(mpsc::Receiver<()>);
impl PartialEq for HoldUntil {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for HoldUntil {}

impl Actor for Probe {
    type Message = Say;

    fn handle(&mut self, context: &mut Context<'_, Self>, message: Say) {
        match &message {
            Say::Hold(until) => until.0.recv_timeout(WAIT).unwrap(),
            Say::Panic => panic!("on purpose"),
            Say::Stop => context.stop(),
            Say::Tick => context.after(Duration::from_millis(5), |probe, _| probe.tell(Say::Number(5))),
            Say::Number(_) | Say::Stopped => {}
        }
        self.tell(message);
    }

    fn stopped(&mut self) {
        self.tell(Say::Stopped);
    }
}

impl Probe {
    fn tell(&self, say: Say) {
        self.seen.send((current_plane(), say)).unwrap();
    }
}

fn probe(planes: &Planes, plane: u16, mailbox_max: usize) -> (Address<Say>, mpsc::Receiver<(Option<u16>, Say)>) {
    let (seen, see) = mpsc::sync_channel(SEEN_MAX);
    (planes.start_actor(plane, mailbox_max, move || Probe { seen }), see)
}

#[test]
fn refuses_when_full_however_many_clones() {
    let planes = Planes::start(1).unwrap();
    let (address, see) = probe(&planes, 0, 4);
    let (release, until) = mpsc::sync_channel(1);
    address.try_send(Say::Hold(HoldUntil(until))).unwrap();
    while address.queued() > 0 {
        std::thread::yield_now();
    }
    let clones: Vec<_> = (0..100).map(|_| address.clone()).collect();
    let taken = clones.iter().filter(|a| a.try_send(Say::Number(1)).is_ok()).count();
    assert_eq!(taken, 4, "the bound does not grow with clones");
    assert!(matches!(address.try_send(Say::Number(9)), Err(SendError::Full(Say::Number(9)))), "handed back");
    release.send(()).unwrap();
    for _ in 0..5 {
        see.recv_timeout(WAIT).unwrap();
    }
    address.try_send(Say::Number(2)).unwrap();
    assert_eq!(see.recv_timeout(WAIT).unwrap(), (Some(0), Say::Number(2)));
    planes.stop();
    assert!(matches!(address.try_send(Say::Number(3)), Err(SendError::Closed(_))));
}

#[test]
fn a_panic_ends_one_actor_alone() {
    let planes = Planes::start(1).unwrap();
    let (bad, bad_sees) = probe(&planes, 0, 4);
    let (good, good_sees) = probe(&planes, 0, 4);
    bad.try_send(Say::Panic).unwrap();
    assert_eq!(bad_sees.recv_timeout(WAIT).unwrap().1, Say::Stopped);
    good.try_send(Say::Number(1)).unwrap();
    assert_eq!(good_sees.recv_timeout(WAIT).unwrap(), (Some(0), Say::Number(1)));
    assert!(matches!(bad.try_send(Say::Number(1)), Err(SendError::Closed(_))));
    assert!(!bad.is_open());
    planes.stop();
}

#[test]
fn timers_and_stop() {
    let planes = Planes::start(2).unwrap();
    let (address, see) = probe(&planes, 1, 4);
    address.try_send(Say::Tick).unwrap();
    assert_eq!(see.recv_timeout(WAIT).unwrap(), (Some(1), Say::Tick));
    assert_eq!(see.recv_timeout(WAIT).unwrap(), (Some(1), Say::Number(5)));
    address.try_send(Say::Stop).unwrap();
    assert_eq!(see.recv_timeout(WAIT).unwrap().1, Say::Stop);
    assert_eq!(see.recv_timeout(WAIT).unwrap().1, Say::Stopped);
    planes.stop();
}

/// Sends numbers to an actor of another plane, retrying what is refused.
struct Source {
    to: Address<Say>,
    next: u32,
    last: u32,
}

impl Actor for Source {
    type Message = ();

    fn handle(&mut self, context: &mut Context<'_, Self>, (): ()) {
        while self.next < self.last {
            if self.to.try_send(Say::Number(self.next)).is_err() {
                context.after(Duration::from_millis(1), |source, context| source.handle(context, ()));
                return;
            }
            self.next += 1;
        }
    }
}

#[test]
fn order_holds_across_planes_under_refusal() {
    let planes = Planes::start(2).unwrap();
    let (to, see) = probe(&planes, 1, 16);
    let source = planes.start_actor(0, 1, move || Source { to, next: 0, last: 20_000 });
    source.try_send(()).unwrap();
    for expected in 0..20_000 {
        assert_eq!(see.recv_timeout(WAIT).unwrap(), (Some(1), Say::Number(expected)));
    }
    planes.stop();
}

/// Counts ends of turns.
struct Polled(mpsc::SyncSender<&'static str>);

impl Actor for Polled {
    type Message = bool;
    const POLLED: bool = true;

    fn handle(&mut self, _: &mut Context<'_, Self>, wake: bool) {
        assert!(!wake);
        self.0.send("message").unwrap();
    }

    fn poll(&mut self, _: &mut Context<'_, Self>, _: &mut std::task::Context<'_>) {
        self.0.send("poll").unwrap();
    }
}

#[test]
fn poll_comes_at_the_end_of_a_turn() {
    let planes = Planes::start(1).unwrap();
    let (seen, see) = mpsc::sync_channel(SEEN_MAX);
    let address = planes.start_actor(0, 8, move || Polled(seen));
    assert_eq!(see.recv_timeout(WAIT).unwrap(), "poll");
    let many = address.clone();
    planes.run_on(0, move || (0..3).for_each(|_| many.try_send(false).unwrap()));
    let turn: Vec<_> = (0..4).map(|_| see.recv_timeout(WAIT).unwrap()).collect();
    assert_eq!(turn, ["message", "message", "message", "poll"]);
    planes.stop();
}

/// A [`SmallActor`] that tells what it gets, and when a turn ends.
struct Small {
    seen: mpsc::SyncSender<Told>,
    ends: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Message(Say),
    Turn,
    Dropped,
}

impl SmallActor for Small {
    type Message = Say;

    fn handle(&mut self, message: Say) {
        match &message {
            Say::Hold(until) => until.0.recv_timeout(WAIT).unwrap(),
            Say::Panic => panic!("on purpose"),
            Say::Stop => self.ends = true,
            _ => {}
        }
        self.seen.send(Told::Message(message)).unwrap();
    }

    fn poll(&mut self, _: &mut std::task::Context<'_>) -> Poll<()> {
        self.seen.send(Told::Turn).unwrap();
        if self.ends { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.seen.send(Told::Dropped).unwrap();
    }
}

fn small(planes: &Planes, mailbox_max: u32) -> (Address<Say>, mpsc::Receiver<Told>) {
    let (seen, see) = mpsc::sync_channel(SEEN_MAX);
    let (tell, told) = mpsc::sync_channel(1);
    planes.run_on(0, move || tell.send(start_small(mailbox_max, Small { seen, ends: false })).unwrap());
    let address = told.recv_timeout(WAIT).unwrap();
    assert_eq!(see.recv_timeout(WAIT).unwrap(), Told::Turn, "the first turn needs no message");
    (address, see)
}

#[test]
fn a_small_actor_has_turns_and_a_bounded_mailbox() {
    let planes = Planes::start(1).unwrap();
    let (address, see) = small(&planes, 4);
    let next = || see.recv_timeout(WAIT).unwrap();
    // Several messages of one turn of another: one turn.
    let many = address.clone();
    planes.run_on(0, move || (0..3).for_each(|n| many.try_send(Say::Number(n)).unwrap()));
    for n in 0..3 {
        assert_eq!(next(), Told::Message(Say::Number(n)));
    }
    assert_eq!(next(), Told::Turn);
    // While it is held, its mailbox fills, whoever sends.
    let (release, until) = mpsc::sync_channel(1);
    address.try_send(Say::Hold(HoldUntil(until))).unwrap();
    while address.queued() > 0 {
        std::thread::yield_now();
    }
    let clones: Vec<_> = (0..100).map(|_| address.clone()).collect();
    assert_eq!(clones.iter().filter(|a| a.try_send(Say::Number(1)).is_ok()).count(), 4);
    assert!(matches!(address.try_send(Say::Number(9)), Err(SendError::Full(Say::Number(9)))), "handed back");
    assert_eq!(address.queued(), 4);
    release.send(()).unwrap();
    assert!(matches!(next(), Told::Message(Say::Hold(_))));
    assert_eq!(next(), Told::Turn, "what came meanwhile has the next turn");
    for _ in 0..4 {
        assert_eq!(next(), Told::Message(Say::Number(1)));
    }
    assert_eq!(next(), Told::Turn);
    assert!(address.is_open() && address.queued() == 0);
    planes.stop();
    assert_eq!(next(), Told::Dropped);
    assert!(matches!(address.try_send(Say::Number(3)), Err(SendError::Closed(_))));
}

#[test]
fn a_small_actor_ends_by_itself_or_by_a_panic() {
    let planes = Planes::start(1).unwrap();
    let (address, see) = small(&planes, 4);
    let two = address.clone();
    planes.run_on(0, move || [Say::Stop, Say::Number(1)].into_iter().for_each(|say| two.try_send(say).unwrap()));
    let told: Vec<_> = (0..4).map(|_| see.recv_timeout(WAIT).unwrap()).collect();
    assert_eq!(told, [Told::Message(Say::Stop), Told::Message(Say::Number(1)), Told::Turn, Told::Dropped]);
    assert!(!address.is_open());
    let (bad, bad_sees) = small(&planes, 4);
    let (good, good_sees) = small(&planes, 4);
    let two = bad.clone();
    planes.run_on(0, move || [Say::Panic, Say::Number(1)].into_iter().for_each(|say| two.try_send(say).unwrap()));
    assert_eq!(bad_sees.recv_timeout(WAIT).unwrap(), Told::Dropped, "without a turn, and what waited went with it");
    assert!(matches!(bad.try_send(Say::Number(1)), Err(SendError::Closed(_))));
    good.try_send(Say::Number(1)).unwrap();
    assert_eq!(good_sees.recv_timeout(WAIT).unwrap(), Told::Message(Say::Number(1)));
    planes.stop();
}

#[test]
fn a_small_actor_hears_another_thread_in_order() {
    let planes = Planes::start(1).unwrap();
    let (address, see) = small(&planes, 16);
    let sender = std::thread::spawn(move || {
        for n in 0..20_000 {
            while address.try_send(Say::Number(n)).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let mut next = 0;
    while next < 20_000 {
        if let Told::Message(say) = see.recv_timeout(WAIT).unwrap() {
            assert_eq!(say, Say::Number(next));
            next += 1;
        }
    }
    sender.join().unwrap();
    planes.stop();
}

#[test]
fn work_at_turn_end_runs_once_for_many_asks() {
    let planes = Planes::start(1).unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let (done, told) = mpsc::sync_channel(8);
    let counted = Arc::clone(&ran);
    let ask = planes.at_turn_end(
        0,
        Box::new(move || {
            let n = counted.fetch_add(1, Ordering::SeqCst) + 1;
            done.send(n).unwrap();
            (n == 2).then_some(Duration::from_millis(1))
        }),
    );
    let ask = Arc::new(ask);
    for round in 1..=2 {
        let ask = Arc::clone(&ask);
        planes.run_on(0, move || (0..100).for_each(|_| ask()));
        assert_eq!(told.recv_timeout(WAIT).unwrap(), round);
    }
    assert_eq!(told.recv_timeout(WAIT).unwrap(), 3, "it asked to be run again");
    planes.stop();
    assert_eq!(ran.load(Ordering::SeqCst), 3);
}

#[test]
fn clocks_go_forward() {
    let (a, b) = (Clock.now(), Clock.now());
    assert!(a.mono.0 >= 1 && b.mono >= a.mono && a.wall.0 > 1_700_000_000_000);
}
