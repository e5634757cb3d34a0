"""The scripts that run inside Redis or Valkey. Each is one atomic step.

Keys, all under one prefix (``headwater`` by default):

- ``P:log``      a hash: ``epoch``, and ``appends``, which counts them over all topics
- ``P:topics``   a hash of all topics; a value is the last trim: ``<id> <records removed>``
- ``P:t:TOPIC``  a stream; an entry has ``d``, the event's JSON, ``m``, its mark, and ``k``, its
  key, if it has one
- ``P:k:TOPIC KEY``  a string that expires: the first and last id of the append with the key
- ``P:N:c:TOPIC``  a channel, to which each append is published; N is the database, as all databases
  of a server share channels
"""

from __future__ import annotations

# KEYS[1] is the log, KEYS[2] the topics and ARGV[1] an epoch for a log that has none.
_LOG = """
local function epoch()
  local found = redis.call('HGET', KEYS[1], 'epoch')
  if not found then
    found = ARGV[1]
    redis.call('HSET', KEYS[1], 'epoch', found)
  end
  return found
end

local function facts(info)
  local found = {}
  for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
  return found
end

-- The highest id below this one.
local function below(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  if seq ~= '0' then return ms .. '-' .. string.format('%.0f', tonumber(seq) - 1) end
  return string.format('%.0f', tonumber(ms) - 1) .. '-18446744073709551615'
end

local function mark(entry)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'm' then return entry[2][i + 1] end
  end
  return ''
end

local function higher(one, other)
  local ms, seq = string.match(one, '(%d+)-(%d+)')
  local ms2, seq2 = string.match(other, '(%d+)-(%d+)')
  ms, ms2 = tonumber(ms), tonumber(ms2)
  if ms > ms2 or (ms == ms2 and tonumber(seq) > tonumber(seq2)) then return one end
  return other
end

-- The latest id ever given out, the highest id ever removed ('0-0' for none), the latest's mark,
-- and whether the topic is known.
local function bounds(stream, topic)
  local known = redis.call('HGET', KEYS[2], topic)
  if not known and redis.call('EXISTS', stream) == 0 then return '0-0', '0-0', '', false end
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err then
    -- Here and not before, as it is so rare.
    if redis.call('EXISTS', stream) == 1 then redis.call('XINFO', 'STREAM', stream) end
    -- Deleted or evicted. Its last id is lost, so positions in it cannot be checked.
    redis.call('HDEL', KEYS[2], topic)
    redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
    return '0-0', '0-0', '', false
  end
  local found, last = facts(info), ''
  local latest, gone = found['last-generated-id'], found['entries-added'] - found['length']
  if found['length'] > 0 and found['last-entry'][1] == latest then
    last = mark(found['last-entry'])
  end
  if gone == 0 then return latest, '0-0', last, known end
  local id, counted = string.match(known or '', '(%S+) (%d+)')
  if id and tonumber(counted) == gone then return latest, id, last, known end
  -- Removed by another program: only what follows that is certain.
  if found['length'] == 0 then return latest, latest, last, known end
  return latest, higher(below(found['first-entry'][1]), found['max-deleted-entry-id']), last, known
end
"""

# KEYS: log, topics, streams; ARGV: new epoch, topics. -> epoch, appends, bounds, ...
STATES = (
    _LOG
    + """
local found = {false, redis.call('HGET', KEYS[1], 'appends') or '0'}
for i = 2, #ARGV do
  local at = i * 3 - 3
  found[at], found[at + 1], found[at + 2] = bounds(KEYS[i + 1], ARGV[i])
end
found[1] = epoch()
return found
"""
)

# KEYS: log, topics, stream; ARGV: new epoch, topic, from id, limit. -> epoch, bounds, entries
_RUN = """
local latest, earliest, last = bounds(KEYS[3], ARGV[2])
return {epoch(), latest, earliest, last, redis.call('%s', KEYS[3], %s, 'COUNT', ARGV[4])}
"""
READ = _LOG + _RUN % ("XRANGE", "ARGV[3], '+'")
LATEST = _LOG + _RUN % ("XREVRANGE", "ARGV[3], '-'")

# KEYS: log, topics, stream, key; ARGV: new epoch, topic, channel, key, its milliseconds, the most
# bytes that are pushed, the mark of these events, the epoch and count of appends that the caller
# knows, events. -> 1, ids, why nothing was pushed, epoch and appends; or 0 and the entries of the
# first append with the key. Commands that the server may refuse come before the events.
APPEND = (
    _LOG
    + """
local stream, topic, key = KEYS[3], ARGV[2], ARGV[4]
if key ~= '' then
  local brought = redis.call('GET', KEYS[4])
  if brought and brought ~= '' then
    local first, last = string.match(brought, '(%S+) (%S+)')
    return {0, redis.call('XRANGE', stream, first, last)}
  end
  redis.call('SET', KEYS[4], '', 'PX', ARGV[5])
end
local before, _, last, known = bounds(stream, topic)
local own = epoch()
local appends = redis.call('HINCRBY', KEYS[1], 'appends', 1)
if own == ARGV[8] and appends <= tonumber(ARGV[9]) then
  -- The same log, and younger: an older copy, or one without the last writes.
  own = ARGV[1]
  redis.call('HSET', KEYS[1], 'epoch', own)
end
if not known then redis.call('HSET', KEYS[2], topic, '') end
local ids, size = {}, 0
for i = 10, #ARGV do
  local id
  if key == '' then
    id = redis.pcall('XADD', stream, '*', 'd', ARGV[i], 'm', ARGV[7])
  else
    id = redis.pcall('XADD', stream, '*', 'd', ARGV[i], 'm', ARGV[7], 'k', key)
  end
  if type(id) == 'table' then
    if not known and i == 10 then redis.call('HDEL', KEYS[2], topic) end
    return id
  end
  ids[i - 9] = id
  size = size + #ARGV[i]
end
if key ~= '' then
  redis.call('SET', KEYS[4], ids[1] .. ' ' .. ids[#ids], 'PX', ARGV[5])
end
local push = {own, tostring(appends), before, last, ids[#ids], ARGV[7], key}
if size <= tonumber(ARGV[6]) then
  for i = 1, #ids do
    push[6 + i * 2] = ids[i]
    push[7 + i * 2] = ARGV[i + 9]
  end
end
local pushed = redis.pcall('PUBLISH', ARGV[3], table.concat(push, '\\n'))
return {1, ids, type(pushed) == 'table' and pushed.err or '', own, appends}
"""
)

# KEYS: log, topics, stream; ARGV: new epoch, topic, how many stay, the milliseconds that they stay,
# the lowest id that stays; '' for no limit. -> how many were removed
TRIM = (
    _LOG
    + """
local stream, removed, last = KEYS[3], 0, nil
local length = redis.call('XLEN', stream)
local most = tonumber(ARGV[3])
if most and length > most then
  -- To one more than asked for: the first entry is then the last one that goes.
  removed = redis.call('XTRIM', stream, 'MAXLEN', most + 1)
  last = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1]
  removed = removed + redis.call('XTRIM', stream, 'MAXLEN', most)
end
local function cut(id)
  local going = redis.call('XREVRANGE', stream, '(' .. id, '-', 'COUNT', 1)
  if going[1] then
    last = going[1][1]
    removed = removed + redis.call('XTRIM', stream, 'MINID', id)
  end
end
if ARGV[4] ~= '' then
  local now = redis.call('TIME')
  local oldest = tonumber(now[1]) * 1000 + tonumber(now[2]) / 1000 - tonumber(ARGV[4])
  if oldest > 0 then cut(string.format('%.0f', math.ceil(oldest)) .. '-0') end
end
if ARGV[5] ~= '' then cut(ARGV[5]) end
if last then
  local found = facts(redis.call('XINFO', 'STREAM', stream))
  local gone = string.format('%.0f', found['entries-added'] - found['length'])
  redis.call('HSET', KEYS[2], ARGV[2], last .. ' ' .. gone)
end
return removed
"""
)

# KEYS: log, topics, stream; ARGV: topic, what the names of its keys begin with, how many entries at
# a time. -> 1 once nothing is left
FORGET = """
local entries = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'k' then redis.call('DEL', ARGV[2] .. entry[2][i + 1]) end
  end
end
if #entries == tonumber(ARGV[3]) then
  redis.call('XTRIM', KEYS[3], 'MINID', entries[#entries][1])
  redis.call('XDEL', KEYS[3], entries[#entries][1])
  return 0
end
redis.call('DEL', KEYS[3])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
"""

# KEYS: stream; ARGV: from id, limit. -> ids and the bytes of their events, newest first
SIZES = """
local found = {}
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', ARGV[2])) do
  found[#found + 1] = entry[1]
  found[#found + 1] = #entry[2][2]
end
return found
"""

# KEYS: log; ARGV: new epoch, the one that it replaces.
BEGIN_ANEW = """
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[2] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
end
"""

# KEYS: topics. -> the name of every topic
NAMES = "return redis.call('HKEYS', KEYS[1])"
