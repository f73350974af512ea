-- Target URLs that services of this machine may send to through ServiceBus, as the cloud's rules say.
CREATE TABLE target_urls (
    url TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
