"""Results as e-mail, by aiosmtplib: those with an address in ``to`` or ``email``, and with ``subject`` and ``text``.

What a result lacks comes from elsewhere: subject and text from the templates ``SMTP_SUBJECT`` and ``SMTP_TEXT``, the
address from the source, if that looks addresses up (``Services.lookups``).

A connection for each message. ``Message-ID`` derives from source and task: it is the same when a message is repeated,
which happens after a kill, and when the answer to its last byte was lost. A result whose recipient or message the
server refuses for good (5xx, RFC 5321 §4.2.1) becomes a dead letter: ``outbox retry`` offers it again.
"""
