use super::*;
use crate::workers::VERSION;
use crate::workers::proto::Go;
use crate::workers::proto::worker_client::WorkerClient;
use tonic::Code;

/// A worker in this process, and where it listens.
async fn worker(token: Option<Token>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Worker::new(token, None, false).serve(listener));
    format!("http://{address}")
}

/// A job that waits for a go before it does anything.
fn job() -> Job {
    let scenario = "scenario = 'register'\n[server]\naddress = '127.0.0.1:1'\n[accounts]\ncount = 1".to_owned();
    Job { version: VERSION.into(), scenario, number: 1, parts: 1, share: 1.0, ..Job::default() }
}

/// Says these things and no more until the stream of reports has ended.
async fn open(address: &str, orders: Vec<order::What>) -> Result<(mpsc::Sender<Order>, Streaming<Report>), Status> {
    let mut client = WorkerClient::connect(address.to_owned()).await.unwrap().max_encoding_message_size(64 << 20);
    let (given, mut taken) = mpsc::channel(8);
    for what in orders {
        given.try_send(Order { what: Some(what) }).unwrap();
    }
    let told = client.run(futures::stream::poll_fn(move |cx| taken.poll_recv(cx))).await?;
    Ok((given, told.into_inner()))
}

async fn refused(address: &str, what: order::What) -> (Code, String) {
    let status = open(address, vec![what]).await.err().unwrap();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn what_it_refuses() {
    let address = worker(None).await;
    let old = Job { version: "0.0.0/0".into(), ..job() };
    let (code, why) = refused(&address, order::What::Job(old)).await;
    assert_eq!((code, why), (Code::FailedPrecondition, format!("runs version {VERSION}, its controller 0.0.0/0: both must run the same")));
    let (code, why) = refused(&address, order::What::Go(Go {})).await;
    assert_eq!((code, &*why), (Code::InvalidArgument, "a job comes first"));
    let (code, why) = refused(&address, order::What::Job(Job { scenario: "scenario = 'dance'".into(), ..job() })).await;
    assert!(code == Code::InvalidArgument && why.contains("there is no scenario dance"), "{why}");
    let (code, why) = refused(&address, order::What::Job(Job { authorities: Some(b"x".to_vec()), ..job() })).await;
    assert!(code == Code::InvalidArgument && why.contains("no certificate"), "{why}");
    let (code, why) = refused(&address, order::What::Job(Job { share: f64::NAN, ..job() })).await;
    assert!(code == Code::InvalidArgument && why.contains("a part is a part of one"), "{why}");
    let long = Job { scenario: "#".repeat(ORDER_BYTES_MAX + 1), ..job() };
    assert_eq!(refused(&address, order::What::Job(long)).await.0, Code::OutOfRange);
}

#[tokio::test]
async fn one_run_at_a_time() {
    let address = worker(None).await;
    let (orders, mut told) = open(&address, vec![order::What::Job(job())]).await.unwrap();
    let Some(What::Ready(ready)) = told.message().await.unwrap().unwrap().what else { panic!() };
    assert_eq!((ready.name, ready.unit), ("register".into(), "accounts".into()));
    assert_eq!(refused(&address, order::What::Job(job())).await, (Code::ResourceExhausted, "busy with another run".into()));
    // Whoever wants no more says so, or just goes.
    drop(orders);
    assert_eq!(told.message().await.unwrap(), None);
    let (orders, told) = open(&address, vec![order::What::Job(job())]).await.unwrap();
    drop((orders, told));
    let (orders, mut told) = loop {
        // That it has gone is heard a moment later.
        match open(&address, vec![order::What::Job(job())]).await {
            Ok(line) => break line,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
    };
    orders.try_send(Order { what: Some(order::What::Go(Go {})) }).unwrap();
    let failure = loop {
        match told.message().await.unwrap().unwrap().what.unwrap() {
            What::Failure(why) => break why,
            What::Ready(_) | What::Second(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(failure.contains("127.0.0.1:1"), "{failure}");
    assert_eq!(told.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_token_keeps_strangers_out() {
    let token = Token::random().unwrap();
    let address = worker(Some(token)).await;
    assert_eq!(refused(&address, order::What::Job(job())).await, (Code::Unauthenticated, "not the worker's token".into()));
}

#[tokio::test]
async fn a_controller_that_does_not_read_is_left() {
    let (reports, mut told) = mpsc::channel(REPORTS_MAX);
    let report = || wire::of_event(Event::Finished);
    for _ in 0..REPORTS_MAX {
        tell(&reports, report(), Duration::ZERO).await.unwrap();
    }
    let short = Duration::from_millis(5);
    assert_eq!(tell(&reports, report(), short).await.unwrap_err(), "stopped: its controller does not read");
    told.recv().await.unwrap().unwrap();
    tell(&reports, report(), short).await.unwrap();
    drop(told);
    assert_eq!(tell(&reports, report(), short).await.unwrap_err(), "stopped: its controller is gone");
}
