-- Decides and books for one subject in one step: the same sums as the reference store in memory.
--
-- KEYS[1]  the subject's state, packed: {seen, {id -> {whole, part[, until]}}}; a rate has no until of its own
-- KEYS[2]  what became of the requests of one minute: 16 bytes of rid -> a letter, or what was charged, packed:
--          id, denominator, whole, part for each rate and id, window, units for each cap
-- ARGV[1]  admit, settle, cancel or peek (which has no KEYS[2])
-- ARGV[2]  the time in us; empty for the server's own, which is what all but tests want
-- ARGV[3]  the rid's 16 bytes
-- ARGV[4]  admit: the last us at which it may still be decided
-- then, for admit and peek, eight for each charge:
--   of a rate  id, need: whole, part, take: whole, part, tolerance: whole, part, denominator
--   of a cap   id, need, take, units, and four boundaries of windows
-- and, for settle, seven for each booking:
--   of a rate  id, denominator, -1|0|1, what is due beside what was taken: whole, part, in full: whole, part
--   of a cap   id, window, its closing, taken, actual, 0, 0
-- Replies {verdict, now, "whole part fits" for each charge} or {outcome, now}.
--
-- Whole numbers below 2^53 only. All is read and checked first and written last: a script is no transaction.

local RATE = 114                        -- an id that begins with "r" is a rate's
local LARGEST_COST = 4503599627370496   -- 2^52
local HORIZON = 316224000000000         -- ten years
local KEPT = 60000000                   -- a minute, after a state has stopped to say anything
local REMEMBERED = '960000'             -- 16 minutes, in ms
local FIRST = 5

local byte, format, max, min = string.byte, string.format, math.max, math.min
local call = redis.call
local verb, rid = ARGV[1], ARGV[3]

local function number(i, least)
  local n = tonumber(ARGV[i])
  if not (n and n >= (least or 0) and n <= 9007199254740992 and n % 1 == 0) then
    error('mw: argument ' .. i .. ' is not a whole number in range', 0)
  end
  return n
end

local now
if ARGV[2] == '' then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = number(2)
end

local function reply(word)
  return {word, format('%.0f', now)}
end

if verb == 'admit' and now > number(4) then
  return reply('late')
end

-- The subject, its rates' arrivals taken back with a clock that went back.

local seen, entries, rewound = 0, {}, false
local stored = call('GET', KEYS[1])
if stored then
  local state = cmsgpack.unpack(stored)
  if type(state) ~= 'table' or type(state[1]) ~= 'number' or type(state[2]) ~= 'table' then
    error('mw: the key of this subject holds something else', 0)
  end
  seen, entries = state[1], state[2]
end
if now < seen then
  for id, entry in pairs(entries) do
    if byte(id) == RATE then
      entry[1] = entry[1] - (seen - now)
    end
  end
  rewound = true
end

local function save(prunes)
  local latest = 0
  for id, entry in pairs(entries) do
    local until_us = entry[3] or entry[1]
    if prunes and until_us + KEPT < now then
      entries[id] = nil
    else
      latest = max(latest, until_us)
    end
  end
  if next(entries) then
    local ms = max(1000, math.ceil((latest + KEPT - now) / 1000))
    call('SET', KEYS[1], cmsgpack.pack({now, entries}), 'PX', format('%.0f', ms))
  else
    call('DEL', KEYS[1])
  end
end

-- Closings may not fail for want of memory, and they do not: Redis lets a script go on that has begun with a
-- write which needs none.
local function mark(fate)
  local lives = call('PEXPIRE', KEYS[2], REMEMBERED)
  call('HSET', KEYS[2], rid, fate)
  if lives == 0 then
    call('PEXPIRE', KEYS[2], REMEMBERED)
  end
end

-- Rates.

local function normal(entry, denominator)
  if not entry then
    return 0, 0
  elseif entry[2] >= denominator then
    return entry[1] + 1, 0
  end
  return entry[1], entry[2]
end

local function arrival(entry, denominator)
  local whole, part = normal(entry, denominator)
  local limit = now + HORIZON
  if whole < now then
    return now, 0
  elseif whole > limit or (whole == limit and part > 0) then
    return limit, 0
  end
  return whole, part
end

local function plus(whole, part, more_whole, more_part, denominator)
  whole, part = whole + more_whole, part + more_part
  if part >= denominator then
    return whole + 1, part - denominator
  end
  return whole, part
end

local function minus(whole, part, less_whole, less_part, denominator)
  whole, part = whole - less_whole, part - less_part
  if part < 0 then
    return whole - 1, part + denominator
  end
  return whole, part
end

-- Caps. A window that has been opened is not reopened by an older one.

local function standing(start, w0, w1, w2, w3)
  local moment = max(start, now)
  if w0 <= moment and moment < w1 then
    return w0, w1
  elseif w1 <= moment and moment < w2 then
    return w1, w2
  elseif w2 <= moment and moment < w3 then
    return w2, w3
  end
  return start, max(start, w3)
end

-- Puts what is due beside what was taken; says whether that changed anything.

local function book_rate(id, denominator, sign, whole, part)
  if sign == 0 then
    return false
  elseif sign > 0 then
    local due, due_part = arrival(entries[id], denominator)
    entries[id] = {plus(due, due_part, whole, part, denominator)}
  else
    local due, due_part = normal(entries[id], denominator)
    entries[id] = {minus(due, due_part, whole, part, denominator)}
  end
  return true
end

local function book_cap(id, window, closing, change)
  local entry = entries[id]
  local start = entry and entry[1] or 0
  if change == 0 or start > window or (start < window and change < 0) then
    return false
  end
  local used = entry and start == window and entry[2] or 0
  local count = min(LARGEST_COST, max(0, used + change))
  if start == window and count == used then
    return false
  end
  entries[id] = {window, count, max(closing, entry and start == window and entry[3] or 0)}
  return true
end

-- What is already known of the request.

local fate = verb ~= 'peek' and call('HGET', KEYS[2], rid)

if verb == 'settle' or verb == 'cancel' then
  local changed = false
  if fate == 's' or fate == 'v' then
    if rewound then save(false) end
    return reply(fate == 's' and 'already' or 'void')
  elseif verb == 'settle' then
    for i = FIRST, #ARGV, 7 do
      local id = ARGV[i]
      local a, b, c = number(i + 1), number(i + 2, -1), number(i + 3)
      local d, e, f = number(i + 4), number(i + 5), number(i + 6)
      local this
      if byte(id) ~= RATE then
        this = book_cap(id, a, b, fate and d - c or d)
      elseif fate then
        this = book_rate(id, a, b, c, d)
      else
        this = book_rate(id, a, e + f == 0 and 0 or 1, e, f)
      end
      changed = this or changed
    end
  elseif fate then
    local taken, i = cmsgpack.unpack(fate), 1
    while taken[i] do
      local id, this = taken[i], nil
      if byte(id) == RATE then
        this = book_rate(id, taken[i + 1], -1, taken[i + 2], taken[i + 3])
        i = i + 4
      else
        this = book_cap(id, taken[i + 1], 0, -taken[i + 2])
        i = i + 3
      end
      changed = this or changed
    end
  end
  mark(verb == 'settle' and 's' or 'v')
  if changed or rewound then save(changed) end
  return reply(fate and 'applied' or 'recovered')
end

if fate == 's' or fate == 'v' then
  if rewound then save(false) end
  return reply('void')
end

-- How each quota stands (in the reply), and how it would after the charge (in `after`).

local answer = {'admitted', format('%.0f', now)}
local after, taken, fits = {}, {}, true

for i = FIRST, #ARGV, 8 do
  local id = ARGV[i]
  local a, b, c, d = number(i + 1), number(i + 2), number(i + 3), number(i + 4)
  local e, f, g = number(i + 5), number(i + 6), number(i + 7)
  local whole, part, fit, new_whole, new_part
  if byte(id) == RATE then
    whole, part = arrival(entries[id], g)
    local late, late_part = plus(whole - now, part, a, b, g)
    fit = late < e or (late == e and late_part <= f)
    new_whole, new_part = plus(whole, part, c, d, g)
    if c + d > 0 then
      after[id] = {new_whole, new_part}
      local n = #taken
      taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = id, g, c, d
    end
  else
    if not (fate or (d <= now and now < g)) then
      if rewound and verb == 'admit' then save(false) end
      return reply('refresh')
    end
    local entry, closing = entries[id], nil
    local start = entry and entry[1] or 0
    whole, closing = standing(start, d, e, f, g)
    part = entry and start == whole and entry[2] or 0
    fit = part + a <= c
    new_whole, new_part = whole, part + b
    if b > 0 then
      after[id] = {whole, new_part, max(closing, entry and start == whole and entry[3] or 0)}
      local n = #taken
      taken[n + 1], taken[n + 2], taken[n + 3] = id, whole, b
    end
  end
  fits = fits and fit
  answer[#answer + 1] = {whole, part, fit, new_whole, new_part}
end

local admits = fits and verb == 'admit' and not fate
for k = 3, #answer do
  local each = answer[k]
  if admits then
    answer[k] = format('%.0f %.0f 1', each[4], each[5])
  else
    answer[k] = format('%.0f %.0f %d', each[1], each[2], (fate or each[3]) and 1 or 0)
  end
end

if admits then
  if next(after) then
    for id, entry in pairs(after) do
      entries[id] = entry
    end
    save(true)
  elseif rewound then
    save(false)
  end
  call('HSET', KEYS[2], rid, cmsgpack.pack(taken))
  call('PEXPIRE', KEYS[2], REMEMBERED)
else
  if rewound and verb == 'admit' then save(false) end
  if not (fits or fate) then answer[1] = 'denied' end
end
return answer
