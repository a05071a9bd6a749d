//! Streams break, owners change, sessions end: whatever happens, every message reaches Romeo, each session hears it once at
//! most, and both archives hold each of them once (if they are to). If he has one device only, it hears them in order. (With several, what
//! one of them never acknowledged comes late to another; a new owner may not know what an ended session acknowledged last.) Seeded: a failure names the seed.

use chappe_modules::pipeline;
use entity::module::ArchiveDefault;
use entity::testing::{World, jid};
use std::collections::BTreeMap;
use types::ns;

/// Numbers that differ from seed to seed, the same each time.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stream {
    None,
    Attached,
    Detached,
}

struct Play {
    world: World,
    draws: Draws,
    /// Romeo has one device.
    alone: bool,
    archived: bool,
    /// Romeo's: whether with XEP-0198, where it is, and which session of that name it is.
    sessions: BTreeMap<&'static str, (bool, Stream, u32)>,
    sent: u64,
    juliet: Stream,
    /// The link between the accounts.
    linked: bool,
    /// What each session heard.
    heard: BTreeMap<(&'static str, u32), Vec<u64>>,
    steps: Vec<String>,
}

impl Play {
    fn new(seed: u64) -> Play {
        let mut world = World::new(pipeline());
        world.sealed = seed.is_multiple_of(3);
        let archived = !seed.is_multiple_of(5);
        if !archived {
            world.settings.archive_default = ArchiveDefault::Never;
        }
        world.run("juliet/balcony comes\njuliet/balcony enables");
        world.create(&jid("romeo"));
        let sessions = [("romeo/a", true), ("romeo/b", true), ("romeo/c", false)];
        Play {
            world,
            draws: Draws(seed),
            alone: seed.is_multiple_of(2),
            archived,
            sessions: sessions.into_iter().map(|(who, sm)| (who, (sm, Stream::None, 0))).collect(),
            sent: 0,
            juliet: Stream::Attached,
            linked: true,
            heard: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    fn step(&mut self, step: String) {
        self.steps.push(step.clone());
        self.world.act(&step);
        self.listen();
    }

    /// Take down what was heard.
    fn listen(&mut self) {
        for (who, (_, stream, n)) in &self.sessions {
            if *n == 0 {
                continue;
            }
            let bodies = self.world.heard(who);
            let bodies = bodies.iter().filter_map(|s| s.child("body", ns::CLIENT)?.text().parse::<u64>().ok());
            let heard = self.heard.entry((who, *n)).or_default();
            let before = heard.len();
            heard.extend(bodies);
            assert!(*stream != Stream::Detached || heard.len() == before, "{who} heard something without a stream");
        }
        self.world.heard("juliet/balcony");
    }

    fn says(&mut self) {
        if self.juliet == Stream::Detached {
            return self.juliet(true);
        }
        self.sent += 1;
        let to = ["romeo@x", "romeo@x", "romeo@x/a", "romeo@x/b"][self.draws.below(if self.alone { 1 } else { 4 }) as usize];
        let text = format!("<message to='{to}' type='chat'><body>{}</body></message>", self.sent);
        self.steps.push(text.clone());
        self.world.says("juliet/balcony", &text);
        self.listen();
    }

    fn juliet(&mut self, here: bool) {
        self.juliet = if here { Stream::Attached } else { Stream::Detached };
        self.step(format!("juliet/balcony {}", if here { "resumes" } else { "drops" }));
    }

    fn link(&mut self, here: bool) {
        self.linked = here;
        self.step(format!("link {}", if here { "mends" } else { "breaks" }));
    }

    fn act(&mut self) {
        match (self.draws.below(40), self.juliet) {
            (0, Stream::Attached) => return self.juliet(false),
            (1..=5, Stream::Detached) => return self.step("juliet reloads".into()),
            (6, _) => return self.link(false),
            (7..=9, _) if !self.linked => return self.link(true),
            _ => {}
        }
        let who = ["romeo/a", "romeo/b", "romeo/c"][self.draws.below(if self.alone { 1 } else { 3 }) as usize];
        let (sm, stream, n) = self.sessions[who];
        let next = match (self.draws.below(12), stream) {
            (0..=4, _) => return self.says(),
            (5 | 6, Stream::Attached) => return self.step(format!("{who} acks")),
            (7, Stream::Attached) => {
                self.step(format!("{who} drops"));
                if sm { Stream::Detached } else { Stream::None }
            }
            (8, Stream::Attached) => {
                self.step(format!("{who} goes"));
                Stream::None
            }
            (9, Stream::Attached) => {
                // Without XEP-0198 what a dead stream swallowed is in the archive alone.
                let what = if self.draws.below(2) == 0 || !sm && self.archived { "sleeps" } else { "fades" };
                return self.step(format!("{who} {what}"));
            }
            (5..=8, Stream::Detached) => {
                // What is sent again counts for the same session.
                self.sessions.insert(who, (sm, Stream::Attached, n));
                return self.step(format!("{who} resumes"));
            }
            (5..=8, Stream::None) | (9, Stream::Detached) => return self.binds(who),
            (10, _) if self.sessions.values().all(|s| s.1 != Stream::Attached) => return self.step("romeo reloads".into()),
            (10, _) => return self.step("wait 20".into()),
            _ => return self.step("wait 3".into()),
        };
        self.sessions.insert(who, (sm, next, n));
    }

    fn binds(&mut self, who: &'static str) {
        let (sm, _, n) = self.sessions[who];
        self.sessions.insert(who, (sm, Stream::Attached, n + 1));
        self.step(format!("{who} binds"));
        if sm {
            self.step(format!("{who} enables"));
        }
        self.world.says(who, &format!("<presence><priority>{}</priority></presence>", self.draws.below(4) as i64 - i64::from(!self.alone)));
        self.listen();
    }

    /// Everything that is owed goes to somebody.
    fn settle(&mut self) {
        if self.juliet == Stream::Detached {
            self.juliet(true);
        }
        self.link(true);
        for who in ["romeo/a", "romeo/b", "romeo/c"] {
            let (sm, mut stream, n) = self.sessions[who];
            if stream == Stream::Attached {
                // It may have faded.
                stream = if sm { Stream::Detached } else { Stream::None };
                self.sessions.insert(who, (sm, stream, n));
                self.step(format!("{who} drops"));
            }
            if stream == Stream::Detached {
                self.sessions.insert(who, (sm, Stream::Attached, n));
                self.step(format!("{who} resumes"));
            }
        }
        self.binds("romeo/c");
        self.world.says("romeo/c", "<presence><priority>9</priority></presence>");
        self.listen();
        for _ in 0..20 {
            for who in ["romeo/a", "romeo/b", "romeo/c"] {
                if self.sessions[who].1 == Stream::Attached {
                    self.world.act(&format!("{who} acks"));
                    self.listen();
                }
            }
        }
    }

    /// The bodies of an archive.
    fn archive(&mut self, who: &str) -> Vec<u64> {
        let mut after = String::new();
        let mut all = Vec::new();
        loop {
            self.world.says(
                who,
                &format!("<iq id='q' type='set'><query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'>{after}</set></query></iq>"),
            );
            let heard = self.world.heard(who);
            let (fin, results) = heard.split_last().unwrap();
            for result in results {
                let result = result.child("result", ns::MAM).unwrap().element().unwrap();
                let message = result.child("forwarded", ns::FORWARD).unwrap().child("message", ns::CLIENT).unwrap().clone();
                all.push(message.child("body", ns::CLIENT).unwrap().text().parse().unwrap());
                after = format!("<after>{}</after>", result.attr("id").unwrap());
            }
            if fin.child("fin", ns::MAM).unwrap().attr("complete").is_some() {
                return all;
            }
        }
    }
}

#[test]
fn nothing_is_lost_or_doubled() {
    for seed in 0..100 {
        let mut play = Play::new(seed);
        for _ in 0..80 {
            play.act();
        }
        play.settle();
        let all: Vec<u64> = (1..=play.sent).collect();
        let steps = play.steps.join("\n");
        let (accepted, sent) = play.world.accepted("juliet/balcony");
        assert_eq!(accepted, sent, "seed {seed}\n{steps}");
        let mut reached: Vec<u64> = play.heard.values().flatten().copied().collect();
        reached.sort_unstable();
        reached.dedup();
        assert_eq!(reached, all, "seed {seed}\n{steps}\n{:?}", play.heard);
        for (session, heard) in &play.heard {
            let mut once = heard.clone();
            once.sort_unstable();
            once.dedup();
            assert!(once.len() == heard.len(), "seed {seed}: {session:?} heard {heard:?}\n{steps}");
            // What an earlier session heard may come again when an owner died, and then late.
            let earlier = |n: &u64| play.heard.iter().any(|(s, h)| s.1 < session.1 && h.contains(n));
            let new: Vec<u64> = heard.iter().filter(|n| !earlier(n)).copied().collect();
            assert!(!play.alone || new.is_sorted(), "seed {seed}: {session:?} heard {heard:?}\n{steps}");
        }
        let kept = if play.archived { all } else { Vec::new() };
        assert_eq!(play.archive("romeo/c"), kept, "seed {seed}\n{steps}");
        play.world.act("juliet/balcony acks");
        assert_eq!(play.archive("juliet/balcony"), kept, "seed {seed}\n{steps}");
        let romeo = play.world.account(&jid("romeo"));
        assert_eq!(romeo.state.log.open().count(), 0, "seed {seed}: something is still owed\n{steps}");
    }
}
