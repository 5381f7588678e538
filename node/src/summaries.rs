//! Summaries of statuses: answered to other nodes, and gathered from them.

use dht_store::Summary;
use dht_store::summary::SUMMARIES;
use dht_store::wire::{Request, Response, StatusSubject};
use p2pinst_types::{NodeId, limits};
use tokio::task::JoinSet;

use crate::gather::{Gather, Look, Shard};
use crate::net::Net;
use crate::rpc;
use crate::store::{StoreFailure, StoreHandle};

/// Requests under way at once: in a cluster of 10,000 machines a group has 157 shards, most of them on
/// nodes that are dialled for the question (16 at once took 7.7 s in the simulator, 64 took 2.3 s).
pub(crate) const AT_ONCE: usize = 128;
/// Time for a replica to answer: who waits for a status waits for the slowest.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// Answers a request for summaries.
///
/// # Errors
/// When the store fails.
pub async fn answer(
    store: &StoreHandle,
    subjects: Vec<StatusSubject>,
) -> Result<Response, StoreFailure> {
    if subjects.len() > SUMMARIES || subjects.iter().any(|s| s.0.len() > limits::CELL_SUBJECT) {
        return Ok(Response::Refused("too many subjects".to_owned()));
    }
    let subjects = subjects.into_iter().map(|s| s.0).collect();
    Ok(Response::Summaries(own(store, subjects).await?))
}

async fn own(
    store: &StoreHandle,
    subjects: Vec<Vec<u8>>,
) -> Result<Vec<Option<Summary>>, StoreFailure> {
    let read = move |s: &mut dht_store::Store| {
        subjects.iter().map(|subject| s.summary(subject)).collect::<Result<Vec<_>, _>>()
    };
    Ok(store.run(read).await??)
}

async fn ask(
    net: Net,
    store: StoreHandle,
    own_node: NodeId,
    peer: NodeId,
    subjects: Vec<Vec<u8>>,
) -> Option<Vec<Option<Summary>>> {
    if peer == own_node {
        return own(&store, subjects).await.ok();
    }
    let wanted = subjects.len();
    let request =
        Request::Summaries { subjects: subjects.into_iter().map(StatusSubject).collect() };
    match tokio::time::timeout(PATIENCE, rpc::ask(&net, peer, &[], &request)).await {
        Ok(Ok(Response::Summaries(mut summaries))) => {
            summaries.truncate(wanted);
            Some(summaries)
        }
        _ => None,
    }
}

/// Asks the replicas of these shards for their summaries, some requests at a time.
pub(crate) async fn gather(
    net: &Net,
    store: &StoreHandle,
    own_node: NodeId,
    shards: Vec<Shard>,
) -> Vec<Look> {
    let mut gather = Gather::new(shards);
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < AT_ONCE
            && let Some((peer, shards)) = gather.next()
        {
            let subjects = gather.subjects(&shards);
            let (net, store) = (net.clone(), store.clone());
            asked.spawn(async move {
                let answer = ask(net, store, own_node, peer, subjects).await;
                (peer, shards, answer)
            });
        }
        match asked.join_next().await {
            Some(Ok((peer, shards, answer))) => gather.answered(peer, &shards, answer),
            Some(Err(_)) => {}
            None => return gather.looks(),
        }
    }
}
