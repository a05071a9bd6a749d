//! Push framer, strict tokenizer, small element tree and writer for XMPP's subset of XML
