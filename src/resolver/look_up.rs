//! A lookup's middle: the question is put to the zone's upstreams or file, and its answer made fit for the client.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData};
use hickory_proto::serialize::binary::BinEncodable;

use super::Resolver;
use super::dns64::{self, Next};
use super::exchange::Exchange;
use super::failure::{Failed, Looked, Memory};
use super::flight::Flight;
use super::rewrite::{map_back, proto_name};
use super::zone::{Source, Zone};
use crate::cache::Key;
use crate::config::Dns64;
use crate::upstream::Query;
use crate::wire::answer::Answer;
use crate::wire::{ede, rtype};

impl<U: Exchange> Resolver<U> {
    /// Looks the flight's question up.
    pub(super) async fn look_up(&self, flight: &Flight<U>) -> Looked {
        let (key, zone) = (&flight.key, &*flight.zone);
        let name = flight.target.as_deref().unwrap_or(key.name());
        let question = Question {
            name,
            qtype: key.qtype(),
            key,
            recursion_desired: flight.recursion_desired,
            answered_by: &flight.answered_by,
        };
        let is_plain = flight.target.is_none()
            && matches!(zone.source, Source::Forward { .. })
            && !(zone.dns64.is_some() && dns64::applies(key));
        if is_plain {
            return match self.ask(zone, question).await {
                Ok(reply) => Answer::from_reply(&reply).into(),
                Err(failed) => failed.into(),
            };
        }
        // Boxed: every lookup under way has room for this future otherwise.
        Box::pin(self.look_up_message(flight, question)).await
    }

    /// As [`Self::look_up`], where the reply needs work before it is the client's.
    async fn look_up_message(&self, flight: &Flight<U>, question: Question<'_>) -> Looked {
        let zone = &*flight.zone;
        let message = match zone.dns64.as_ref().filter(|_| dns64::applies(&flight.key)) {
            Some(settings) => self.translate(zone, question, settings).await,
            None => self.ask_message(zone, question).await,
        };
        let message = match message {
            Ok(message) if matches!(zone.source, Source::File(_)) => {
                self.follow_aliases(zone, question, message).await
            }
            other => other,
        };
        let mut message = match message {
            Ok(message) => message,
            Err(looked) => return looked,
        };
        if let Some(target) = &flight.target {
            map_back(&mut message, &proto_name(flight.key.name()), &proto_name(target));
        }
        Answer::from_message(&message).into()
    }

    /// A file's answer that ends in an alias to a name outside of it: a client cannot follow it by itself, so it is
    /// followed here (RFC 1034 §4.3.2 step 3a), as far as other zones know the name.
    async fn follow_aliases(
        &self,
        file: &Zone<U>,
        question: Question<'_>,
        mut message: Message,
    ) -> Result<Message, Looked> {
        let mut followed = Vec::new();
        while let Some(name) = open_alias(&message, &proto_name(question.name), question.qtype) {
            // The end of it: its zone has no such records.
            if followed.len() == MAX_ALIASES || followed.contains(&name) {
                break;
            }
            let Ok(wire) = name.to_lowercase().to_bytes() else { break };
            let tables = Rc::clone(&self.tables.borrow());
            let Some(zone) = tables.forwarding_zone(&wire).filter(|zone| zone.name() != file.name()) else {
                break;
            };
            let mut there = self.ask_message(zone, Question { name: &wire, ..question }).await?;
            message.metadata.response_code = there.metadata.response_code;
            message.answers.append(&mut there.answers);
            message.authorities = there.authorities;
            followed.push(name);
        }
        Ok(message)
    }

    /// Puts the question to whoever answers for the zone; the reply's bytes.
    async fn ask(&self, zone: &Zone<U>, question: Question<'_>) -> Result<Vec<u8>, Failed> {
        match &zone.source {
            Source::Forward { forwarder, .. } => {
                let reply = forwarder.upstream.exchange(&question.to_query()).await?;
                question.answered_by.replace(Some(reply.endpoint));
                self.note_answer();
                Ok(reply.message)
            }
            Source::File(file) => {
                let file = Rc::clone(&file.borrow());
                let reply = Box::pin(file.reply(question.name, question.qtype, question.key.qclass())).await;
                // Of a zone that was loaded, only a question that does not parse can fail.
                reply.map_err(|_| Failed::servfail(ede::INVALID_DATA, Memory::Backoff))
            }
            Source::Nowhere => Err(Failed::servfail(ede::NOT_AUTHORITATIVE, Memory::None)),
        }
    }

    async fn ask_message(&self, zone: &Zone<U>, question: Question<'_>) -> Result<Message, Looked> {
        let reply = self.ask(zone, question).await?;
        Message::from_vec(&reply).map_err(|_| Failed::servfail(ede::INVALID_DATA, Memory::Backoff).into())
    }

    /// The AAAA answer, made of the A answer where there is none (RFC 6147 §5.1).
    async fn translate(
        &self,
        zone: &Zone<U>,
        question: Question<'_>,
        settings: &Dns64,
    ) -> Result<Message, Looked> {
        let a_question = Question { qtype: rtype::A, ..question };
        if settings.translate_all {
            let a = self.ask_message(zone, a_question).await?;
            if let Some(made) = dns64::synthesize(a, u32::MAX, settings) {
                return Ok(made);
            }
            return self.ask_message(zone, question).await;
        }
        let mut aaaa = self.ask_message(zone, question).await?;
        let Next::AskA { max_ttl } = dns64::after_aaaa(&mut aaaa) else { return Ok(aaaa) };
        let a = self.ask_message(zone, a_question).await?;
        Ok(dns64::synthesize(a, max_ttl, settings).unwrap_or(aaaa))
    }
}

/// The name at the end of the answer's chain of aliases, if it has any and none of its records is of the type asked.
fn open_alias(message: &Message, asked: &Name, qtype: u16) -> Option<Name> {
    if matches!(qtype, rtype::CNAME | rtype::ANY) || message.metadata.response_code != ResponseCode::NoError {
        return None;
    }
    let mut end = asked;
    for _ in 0..message.answers.len() {
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *end => Some(&target.0),
            _ => None,
        });
        let Some(next) = alias else { break };
        end = next;
    }
    let is_answered =
        message.answers.iter().any(|record| record.name == *end && u16::from(record.record_type()) == qtype);
    (end != asked && !is_answered).then(|| end.clone())
}

/// Aliases out of a file's zone that are followed for one question: as many as BIND follows.
const MAX_ALIASES: usize = 16;

/// A question as it is put to a zone.
#[derive(Clone, Copy)]
struct Question<'a> {
    name: &'a [u8],
    qtype: u16,
    /// Class, DO and CD.
    key: &'a Key,
    recursion_desired: bool,
    /// Where the upstream that answered is noted.
    answered_by: &'a RefCell<Option<Arc<str>>>,
}

impl Question<'_> {
    fn to_query(self) -> Query {
        Query {
            name: self.name.into(),
            qtype: self.qtype,
            qclass: self.key.qclass(),
            dnssec_ok: self.key.flags().dnssec_ok(),
            checking_disabled: self.key.flags().checking_disabled(),
            recursion_desired: self.recursion_desired,
            // The answer serves clients that understand AD and clients that do not (RFC 6840 §5.7); the reply to each
            // says AD only where it was asked for.
            authentic_data: true,
        }
    }
}
