"""What is done in Redis at one go, so that `kill -9` comes before it or after it.

Rule 1: an entry that a sink was handed is pending in its group, and in one record of its hand, from the
        same script on; it leaves both by one script.
Rule 2: an entry is deleted by the script in which the last of all groups acknowledges it, or by a sweep
        of what every group has acknowledged. Where a group that has to be there is not, none is.
Rule 3: under `maxmemory` Redis lets a script finish whose first write frees memory: what is delivered has
        to be told to a server that is full. So each begins with HDEL.
"""

from __future__ import annotations

from meter_mw.sinks.redis_line import Script

_COMMON = """
redis.call('HDEL', KEYS[2], '')

local function named(flat)
  local found = {}
  for at = 1, #flat, 2 do found[flat[at]] = flat[at + 1] end
  return found
end

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function before(one, other)
  local ms, seq = parts(one)
  local other_ms, other_seq = parts(other)
  return ms < other_ms or (ms == other_ms and seq < other_seq)
end

-- All groups; nil where one of those that have to be there is missing.
local function groups_with(first)
  local ok = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  if ok.err then return nil end
  local groups, present = {}, {}
  for index, flat in ipairs(ok) do
    groups[index] = named(flat)
    present[groups[index].name] = true
  end
  for at = first, #ARGV do
    if not present[ARGV[at]] then return nil end
  end
  return groups
end
"""

TAKE = Script(
    _COMMON
    + """
-- KEYS: stream, hand, alive. ARGV: group, consumer, count, lease in ms.
redis.call('SET', KEYS[3], '1', 'PX', ARGV[4])
local function read()
  return redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
end
local got = read()
if got and got.err then
  if not string.find(got.err, 'NOGROUP', 1, true) then return got end
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
  got = read()
end
if not got then return {} end
if got.err then return got end
local entries, ids = got[1][2], {}
if #entries == 0 then return {} end
for index, entry in ipairs(entries) do ids[index] = entry[1] end
redis.call('HSET', KEYS[2], ARGV[2] .. '/' .. ids[1], table.concat(ids, ' '))
return entries
"""
)
"""Hand out entries that the group has not handed out: [[id, [name, value, …]], …]."""

KEEP = Script(
    _COMMON
    + """
-- KEYS: stream, hand, alive. ARGV: group, field, record, lease in ms, how many are done, their ids, how
-- many are in hand, their ids, groups that have to be there.
local done, first = tonumber(ARGV[5]), 6
local held = tonumber(ARGV[first + done])
local other = first + done + held + 1
redis.call('SET', KEYS[3], '1', 'PX', ARGV[4])
local mine = redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1
if mine and ARGV[3] == '' then
  redis.call('HDEL', KEYS[2], ARGV[2])
elseif mine then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
end
if done > 0 and redis.call('EXISTS', KEYS[1]) == 1 then
  local ids = {}
  for at = first, first + done - 1 do ids[#ids + 1] = ARGV[at] end
  redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
  local groups = groups_with(other)
  for _, id in ipairs(groups and ids or {}) do
    local needed = false
    for _, group in ipairs(groups) do
      if group.name ~= ARGV[1] and not needed then
        needed = before(group['last-delivered-id'], id)
          or #redis.call('XPENDING', KEYS[1], group.name, id, id, 1) > 0
      end
    end
    if not needed then redis.call('XDEL', KEYS[1], id) end
  end
end
if mine then return 1 end
local there = {}
for at = first + done + 1, first + done + held do
  there[#there + 1] = #redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at], 'COUNT', 1)
end
return there
"""
)
"""Acknowledge what is done, and write down what is in hand; 1.

Where another has the consignment, nothing is written down, and what comes back says of each entry in
hand whether the stream has it.
"""

CLAIM = Script(
    _COMMON
    + """
-- KEYS: stream, hand, alive of us, alive of the other. ARGV: group, our consumer, the other, lease in ms,
-- how many entries, the entry to go on after. The other may be us.
if ARGV[2] ~= ARGV[3] and redis.call('EXISTS', KEYS[4]) == 1 then return {{}, {}} end
redis.call('SET', KEYS[3], '1', 'PX', ARGV[4])
local records = {}
local all, prefix = redis.call('HGETALL', KEYS[2]), ARGV[3] .. '/'
for at = 1, #all, 2 do
  if string.sub(all[at], 1, #prefix) == prefix then
    local field = ARGV[2] .. '/' .. string.sub(all[at], #prefix + 1)
    redis.call('HDEL', KEYS[2], all[at])
    redis.call('HSET', KEYS[2], field, all[at + 1])
    records[#records + 1] = {field, all[at + 1]}
  end
end
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[6], '+', ARGV[5], ARGV[3])
if pending.err then return {records, {}} end
local ids = {}
for index, each in ipairs(pending) do ids[index] = each[1] end
if ARGV[2] ~= ARGV[3] then
  if #ids > 0 then redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids)) end
  -- With a consumer go its pending entries, so only one that has none is removed.
  if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[3]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[3])
  end
end
return {records, ids}
"""
)
"""Take over what a dead consumer had in hand: its records, and its pending entries."""

FETCH = Script("""
-- KEYS: stream. ARGV: ids.
local found = {}
for index, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[1], id, id, 'COUNT', 1)
  found[index] = entry[1] and entry[1][2] or {}
end
return found
""")
"""Read entries: the fields of each, none where it is gone."""

SWEEP = Script(
    _COMMON
    + """
-- KEYS: stream, hand. ARGV: groups that have to be there.
local groups = groups_with(1)
if not groups or #groups == 0 then return 0 end
local lowest
for _, group in ipairs(groups) do
  local low = redis.call('XPENDING', KEYS[1], group.name)[2]
  if not low then
    local ms, seq = string.match(group['last-delivered-id'], '^(%d+)-(%d+)$')
    low = ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
  end
  if not lowest or before(low, lowest) then lowest = low end
end
if redis.call('XLEN', KEYS[1]) > 10000 then
  return redis.call('XTRIM', KEYS[1], 'MINID', '~', lowest, 'LIMIT', 5000)
end
return redis.call('XTRIM', KEYS[1], 'MINID', lowest)
"""
)
"""Delete what every group has acknowledged, in pieces where it is much."""

BACKLOG = Script(
    _COMMON
    + """
-- KEYS: stream, hand. ARGV: group.
local groups = groups_with(2)
local mine
for _, group in ipairs(groups or {}) do
  if group.name == ARGV[1] then mine = group end
end
local length = redis.call('XLEN', KEYS[1])
if not mine then
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  return {length, first and first[1] or ''}
end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
local ahead = tonumber(mine.lag) or length - pending[1]
local oldest = pending[2]
if not oldest then
  local following = redis.call('XRANGE', KEYS[1], '(' .. mine['last-delivered-id'], '+', 'COUNT', 1)[1]
  oldest = following and following[1] or ''
end
return {pending[1] + ahead, oldest}
"""
)
"""Count what a group has not acknowledged, and name the oldest of it.

Before Redis 7, which counts what lies ahead, that is at most as many as the stream holds.
"""

ARRIVED = Script(
    _COMMON
    + """
-- KEYS: stream, hand. ARGV: the last entry that counts, groups.
local last = {}
for _, group in ipairs(groups_with(#ARGV + 1) or {}) do last[group.name] = group['last-delivered-id'] end
for at = 2, #ARGV do
  local name = ARGV[at]
  local ahead = '(' .. (last[name] or '0-0')
  if #redis.call('XRANGE', KEYS[1], ahead, ARGV[1], 'COUNT', 1) > 0 then return 0 end
  if last[name] and #redis.call('XPENDING', KEYS[1], name, '-', ARGV[1], 1) > 0 then return 0 end
end
return 1
"""
)
"""Say whether groups have acknowledged all up to an entry."""

BEAT = Script("""
-- KEYS: stream, hand, alive. ARGV: lease in ms.
redis.call('HDEL', KEYS[2], '')
return redis.call('SET', KEYS[3], '1', 'PX', ARGV[1])
""")
"""Renew a lease."""
