use super::*;
use crate::workers::proto;

fn file() -> File {
    File::parse("scenario = 'chat'", &[]).unwrap()
}

fn ready() -> What {
    What::Ready(proto::Ready { name: "chat".into(), unit: "messages".into() })
}

fn second(at: f64, count: u64) -> What {
    let latency = Some(proto::Histogram { values: vec![7], counts: vec![count], largest: 7 });
    What::Second(proto::Second { at, length: 1.0, count, latency, ..proto::Second::default() })
}

fn outcome(count: u64) -> What {
    let latency = Some(proto::Histogram { values: vec![7], counts: vec![count], largest: 7 });
    What::Outcome(proto::Outcome { count, seconds: 1.0, latency, ..proto::Outcome::default() })
}

#[tokio::test]
async fn all_go_on_together() {
    let (file, progress) = (file(), Progress::silent());
    let mut course = Course::new(&file, &["a", "b"], &progress).await.unwrap();
    course.gather();
    assert_eq!(course.take(0, ready()).await.unwrap(), Next::Read);
    assert_eq!(course.take(1, ready()).await.unwrap(), Next::Go);
    // The second one is a little behind: its warm-up ends after the other's measured time has begun.
    let steps =
        [(0, second(1.0, 1)), (0, What::Measuring(proto::Measuring {})), (1, second(1.1, 2)), (1, What::Measuring(proto::Measuring {}))];
    for (from, what) in steps.into_iter().chain([(0, second(1.0, 10)), (1, second(1.0, 20))]) {
        assert_eq!(course.take(from, what).await.unwrap(), Next::Read);
        course.gather();
    }
    for from in [1, 0] {
        assert_eq!(course.take(from, What::Finished(proto::Finished {})).await.unwrap(), Next::Read);
    }
    assert_eq!(course.take(0, outcome(10)).await.unwrap(), Next::Read);
    assert_eq!(course.take(1, outcome(20)).await.unwrap(), Next::End);
    let whole = course.end().unwrap();
    assert_eq!((whole.count, whole.histogram), (30, vec![(7, 30)]));
    assert_eq!(whole.series.iter().map(|s| (s.at, s.count)).collect::<Vec<_>>(), [(0.0, 3), (1.0, 30)]);
}

#[tokio::test]
async fn a_later_stage_is_what_counts() {
    let (file, progress) = (file(), Progress::silent());
    let mut course = Course::new(&file, &["a"], &progress).await.unwrap();
    for what in [ready(), second(1.0, 5), ready(), second(1.0, 7), What::Finished(proto::Finished {}), outcome(7)] {
        course.take(0, what).await.unwrap();
    }
    assert_eq!(course.end().unwrap().series.iter().map(|s| s.count).collect::<Vec<_>>(), [7]);
}

#[tokio::test]
async fn what_is_no_report() {
    let (file, progress) = (file(), Progress::silent());
    let mut course = Course::new(&file, &["a"], &progress).await.unwrap();
    let why = |result: Result<Next>| result.unwrap_err().to_string();
    assert_eq!(why(course.take(0, second(1.0, 1)).await), "a second of nothing");
    assert_eq!(why(course.take(0, What::Failure("no room".into())).await), "no room");
    assert_eq!(why(course.take(1, ready()).await), "a report of nobody");
    course.take(0, ready()).await.unwrap();
    assert_eq!(why(course.take(0, second(f64::INFINITY, 1)).await), "a second from nowhere");
    assert!(course.end().is_err());
}

#[tokio::test]
async fn a_server_that_cannot_be_looked_at_is_told_first() {
    let (mut file, progress) = (file(), Progress::silent());
    file.server.pid = Some(u32::MAX);
    assert!(Course::new(&file, &["a"], &progress).await.is_err());
}
