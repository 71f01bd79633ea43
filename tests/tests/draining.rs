//! A king that is going to end reports itself as not serving to health checks.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its expectation does")]

use std::time::Duration;

use distwasm_king::{
    Reign, accept::Connections, authority::Authority, handshakes::Handshakes, key::Key, programs::Programs,
};
use distwasm_process::shutdown::Stop;
use distwasm_proto::{
    PROTOCOL,
    digest::Digest,
    wire::{self, queen_news::News, queen_word::Word},
};
use distwasm_transport::{
    credentials::Credentials,
    link::{King, connect},
    transfer::Outbox,
};
use tokio::{net::TcpListener, time::timeout};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

async fn health(channel: &Channel) -> ServingStatus {
    let request = HealthCheckRequest { service: "distwasm.v1.King".to_owned() };
    HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status()
}

fn job() -> wire::OpenJob {
    let program_digest = Digest::of([]).to_wire();
    wire::OpenJob {
        protocol: PROTOCOL,
        program_digest,
        project: "p".to_owned(),
        key: vec![1; 16].into(),
        ..wire::OpenJob::default()
    }
}

#[tokio::test]
async fn a_king_that_drains_is_not_serving() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = Stop::new(Duration::from_secs(60));
    let incoming = Handshakes::new(Connections::new(listener, 8), &Key::generate().unwrap());
    let king = distwasm_king::run(
        incoming,
        None,
        (Authority::without_tokens(true), Programs::none()),
        Reign::first(),
        stop.clone(),
    );
    let queen = async {
        let remote = connect(&address.parse().unwrap(), &Credentials::Insecure).await.unwrap();
        let channel = remote.channel();
        assert_eq!(health(&channel).await, ServingStatus::Serving);
        // A job keeps the king from ending at once.
        let (words, stream) = Outbox::<wire::QueenWord>::new();
        words.push(Word::OpenJob(Box::new(job())));
        let mut news = King::Remote(remote.clone()).submit_job(stream).await.unwrap();
        let welcome = news.message().await.unwrap().unwrap().news.remove(0);
        assert!(matches!(welcome.news, Some(News::Welcome(_))), "{welcome:?}");
        stop.drain();
        while health(&channel).await != ServingStatus::NotServing {
            tokio::task::yield_now().await;
        }
        words.push(Word::End(wire::End::default()));
        words.close();
        // The king expects a queen back that hangs up before the king has heard its `end`.
        while news.message().await.unwrap().is_some() {}
    };
    let (served, queen) = tokio::join!(king, timeout(Duration::from_secs(60), queen));
    queen.expect("the king should say in time that it is going to end");
    served.unwrap();
}
