use super::*;
use crate::scenario::Weights;
use proptest::prelude::*;

const WORKERS_MAX: usize = 9;

fn parse(text: &str) -> File {
    File::parse(text, &[]).unwrap()
}

/// Divides it, and sums up what the parts say by `units`.
fn sums<const N: usize>(file: &File, workers: usize, units: impl Fn(&File) -> [usize; N]) -> (Vec<Share>, [usize; N]) {
    let shares = split(file, workers).unwrap();
    let mut sums = [0; N];
    for share in &shares {
        sums.iter_mut().zip(units(&share.file)).for_each(|(sum, n)| *sum += n);
    }
    (shares, sums)
}

/// What holds of every division.
fn check(file: &File, shares: &[Share], workers: usize) {
    assert!(!shares.is_empty() && shares.len() <= workers.max(1));
    let (mut first, mut before) = (file.accounts.first.unwrap_or(0), 0.0);
    for Share { file: part, before: before_it, share } in shares {
        let Accounts { first: Some(from), count: Some(count), .. } = part.accounts else { panic!("{part:?}") };
        // One behind the other: nothing twice, nothing left out.
        assert_eq!(from, first);
        assert!(count > 0 || shares.len() == 1, "{part:?}");
        assert!((before_it - before).abs() < 1e-9 && *share > 0.0, "{shares:?}");
        assert_eq!((part.server.pid, &part.server.metrics, &part.server.ca), (None, &None, &None));
        assert!(matches!(part.work, Work::Register(_)) || part.work.accounts() == count);
        (first, before) = (first + count, before + share);
    }
    assert!((before - 1.0).abs() < 1e-9);
    // What a worker is sent says the same.
    shares.iter().for_each(|s| assert_eq!(parse(&s.file.text().unwrap()), s.file));
}

fn near(sum: f64, all: f64) {
    assert!((sum - all).abs() <= 1e-9 * all.abs(), "{sum} of {all}");
}

fn file(work: Work) -> File {
    let server = crate::file::Server { pid: Some(1), metrics: Some("http://a".into()), ca: Some("a".into()), ..Default::default() };
    File { work, server, accounts: Accounts { first: Some(7), ..Accounts::default() } }
}

proptest! {
    #[test]
    fn chats(pairs in 1_usize..500, workers in 1..WORKERS_MAX, all in 0.1..1e6) {
        let file = file(Work::Chat(Chat { pairs, rate: Some(all), ..Chat::default() }));
        let chat = |f: &File| if let Work::Chat(chat) = f.work { chat } else { panic!("{f:?}") };
        let (shares, sums) = sums(&file, workers, |f| [chat(f).pairs]);
        check(&file, &shares, workers);
        prop_assert_eq!((sums, shares.len()), ([pairs], workers.min(pairs)));
        near(shares.iter().filter_map(|s| chat(&s.file).rate).sum(), all);
        let (least, most) = (shares.iter().map(|s| chat(&s.file).pairs).min(), shares.iter().map(|s| chat(&s.file).pairs).max());
        prop_assert!(most.unwrap() - least.unwrap() <= 1 && least.unwrap() > 0);
    }

    #[test]
    fn registrations_and_logins(n in 1_usize..500, concurrency in 1_usize..20, workers in 1..WORKERS_MAX, all in 0.1..1e6) {
        let mut register = file(Work::Register(Register { concurrency, existing: true }));
        register.accounts.count = Some(n);
        let (shares, register_sums) = sums(&register, workers, |f| match f.work {
            Work::Register(r) => [f.accounts.count.unwrap(), r.concurrency],
            _ => panic!("{f:?}"),
        });
        check(&register, &shares, workers);
        prop_assert_eq!((register_sums, shares.len()), ([n, concurrency], workers.min(n).min(concurrency)));
        let login = file(Work::Login(Storm { logins: n, concurrency, rate: Some(all), resume: false }));
        let storm = |f: &File| if let Work::Login(storm) = f.work { storm } else { panic!("{f:?}") };
        let (shares, login_sums) = sums(&login, workers, |f| [storm(f).logins, storm(f).concurrency]);
        check(&login, &shares, workers);
        prop_assert_eq!((login_sums, shares.len()), ([n, concurrency], workers.min(n).min(concurrency)));
        near(shares.iter().filter_map(|s| storm(&s.file).rate).sum(), all);
    }

    #[test]
    fn idle_sessions_and_rooms(n in 1_usize..500, base in 0_usize..20, workers in 1..WORKERS_MAX) {
        let idle = file(Work::Idle(Idle { base, sessions: n, settle: 1 }));
        let (shares, idle_sums) = sums(&idle, workers, |f| if let Work::Idle(i) = f.work { [i.base, i.sessions] } else { panic!("{f:?}") });
        check(&idle, &shares, workers);
        prop_assert_eq!((idle_sums, shares.len()), ([base, n], workers.min(n)));
        let group = file(Work::Group(Group { rooms: n, ..Group::default() }));
        let (shares, rooms) = sums(&group, workers, |f| if let Work::Group(g) = &f.work { [g.rooms] } else { panic!("{f:?}") });
        check(&group, &shares, workers);
        prop_assert_eq!((rooms, shares.len()), ([n], workers.min(n)));
    }

    #[test]
    fn contacts_are_among_those_of_one_worker(clients in 1_usize..500, half in 0_usize..30, workers in 1..WORKERS_MAX) {
        let file = file(Work::Presence(Presence { clients, contacts: half * 2, rate: Some(40.0), ..Presence::default() }));
        let presence = |f: &File| if let Work::Presence(p) = f.work { p } else { panic!("{f:?}") };
        let (shares, sums) = sums(&file, workers, |f| [presence(f).clients]);
        check(&file, &shares, workers);
        prop_assert_eq!(sums, [clients]);
        prop_assert!(shares.len() == 1 || shares.iter().all(|s| presence(&s.file).clients > half * 2));
        near(shares.iter().filter_map(|s| presence(&s.file).rate).sum(), 40.0);
    }

    #[test]
    fn senders_and_recipients(senders in 1_usize..50, recipients in 1_usize..500, concurrency in 1_usize..20, workers in 1..WORKERS_MAX) {
        let file = file(Work::Offline(Offline { senders, recipients, concurrency, ..Offline::default() }));
        let offline = |f: &File| if let Work::Offline(o) = f.work { o } else { panic!("{f:?}") };
        let (shares, sums) = sums(&file, workers, |f| [offline(f).senders, offline(f).recipients, offline(f).concurrency]);
        check(&file, &shares, workers);
        prop_assert_eq!(sums, [senders, recipients, concurrency]);
        prop_assert_eq!(shares.len(), workers.min(senders).min(recipients).min(concurrency));
        prop_assert!(shares.iter().all(|s| offline(&s.file).senders > 0 && offline(&s.file).recipients > 0));
    }

    #[test]
    fn cuts_and_archives(pairs in 1_usize..500, workers in 1..WORKERS_MAX, all in 0.0..1e4) {
        let reconnect = file(Work::Reconnect(Reconnect { pairs, rate: all, cuts: all / 3.0, ..Reconnect::default() }));
        let one = |f: &File| if let Work::Reconnect(r) = f.work { r } else { panic!("{f:?}") };
        let (shares, of_reconnect) = sums(&reconnect, workers, |f| [one(f).pairs]);
        check(&reconnect, &shares, workers);
        prop_assert_eq!(of_reconnect, [pairs]);
        near(shares.iter().map(|s| one(&s.file).rate).sum(), all);
        near(shares.iter().map(|s| one(&s.file).cuts).sum(), all / 3.0);
        let archive = file(Work::Archive(Archive { pairs, ..Archive::default() }));
        let (shares, of_archive) = sums(&archive, workers, |f| if let Work::Archive(a) = f.work { [a.pairs] } else { panic!("{f:?}") });
        check(&archive, &shares, workers);
        prop_assert_eq!(of_archive, [pairs]);
    }

    #[test]
    fn a_day(pairs in 1_usize..250, half in 0_usize..15, occupants in 2_usize..12, visitors in 1_usize..20, workers in 1..WORKERS_MAX) {
        let day = vec![(0.0, 20.0), (5.0, 50.0)];
        let all = Mixed { clients: pairs * 2, contacts: half * 2, occupants, visitors, day, ..Mixed::default() };
        let file = file(Work::Mixed(all.clone()));
        let mixed = |f: &File| if let Work::Mixed(m) = &f.work { m.clone() } else { panic!("{f:?}") };
        let (shares, sums) = sums(&file, workers, |f| [mixed(f).clients, mixed(f).visitors]);
        check(&file, &shares, workers);
        prop_assert_eq!(sums, [pairs * 2, visitors]);
        near(shares.iter().map(|s| mixed(&s.file).day[1].1).sum(), 50.0);
        let parts: Vec<_> = shares.iter().map(|s| mixed(&s.file)).collect();
        prop_assert!(parts.iter().all(|m| m.clients.is_multiple_of(2) && m.visitors > 0));
        prop_assert!(parts.len() == 1 || parts.iter().all(|m| m.clients > half * 2));
        let rooms = |m: &Mixed| m.clients.div_ceil(occupants);
        prop_assert_eq!(parts.iter().map(rooms).sum::<usize>(), rooms(&all));
    }
}

#[test]
fn without_rooms_and_contacts_pairs_are_the_units() {
    let weights = Weights { group: 0.0, presence: 0.0, login: 0.0, ..Weights::default() };
    let all = file(Work::Mixed(Mixed { clients: 6, visitors: 0, weights, ..Mixed::default() }));
    let shares = split(&all, 5).unwrap();
    check(&all, &shares, 5);
    assert_eq!(shares.len(), 3);
}

#[test]
fn nothing_to_divide_stays_one() {
    for text in ["scenario='chat'\n[load]\npairs=0", "scenario='login'\n[load]\nconcurrency=0", "scenario='idle'\n[load]\nsessions=0"] {
        let shares = split(&parse(text), 3).unwrap();
        assert_eq!((shares.len(), shares[0].before, shares[0].share), (1, 0.0, 1.0), "{text}");
    }
}

#[test]
fn accounts_must_be_enough() {
    let few = parse("scenario = 'chat'\n[accounts]\ncount = 7\n[load]\npairs = 4");
    assert_eq!(split(&few, 2).unwrap_err().to_string(), "chat needs 8 accounts, not 7");
}
