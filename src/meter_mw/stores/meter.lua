-- Decides and books in one step, for all holders of quotas that a request is about: the same sums as the
-- reference store in memory.
--
-- KEYS     for each holder two: its state, packed: {seen, {id -> entry}, due, last}, where the last two say when
--          its first and its last hold is over, if it has any; and a hash of what is held of it:
--          16 bytes of rid, then id -> a hold, packed; and last, but for peek, a hash of what became of the
--          requests of one minute: 16 bytes of rid -> what it was charged, packed, or how it ended
-- ARGV[1]  packed, in one array: admit, topup, settle, cancel or peek; the time in us, or -1 for the server's own, which
--          is what all but tests want;
--          for admit and topup: the last us at which it may still be decided, the us that a hold lasts, and none,
--          self or all: which rates a denied request counts against;
--          then, for admit, topup and peek, twelve for each charge: holder, id, flags (1 held, 2 shadow), and
--          of a rate  need: whole, part, take: whole, part, tolerance: whole, part, denominator, 0, 0
--          of a cap   need, take, most, four boundaries of windows, what is included or nothing, thresholds
--          of slots   need, take, most, 0, 0, 0, 0, nothing, nothing
--          and, for settle and cancel, seven for each booking: holder, id, and
--          of a rate  denominator, actual: whole, part, 0, 0
--          of a cap   actual, window, its closing, what is included or nothing, thresholds
--          of slots   0, 0, 0, nothing, nothing
-- ARGV[2]  the rid's 16 bytes
-- ARGV[3]  for admit: the 16 bytes of a rid whose slots are handed over, or nothing
-- ARGV[4]  what every reply ends with
--
-- An entry is {whole, part} of a rate, {start, used, until, held, overage, warned} of a cap or slots.
-- A hold is {until, whole, part, due, denominator} of a rate, {until, start, units, base} of a cap or slots.
--
-- Replies, packed: {verdict, now, a reading for each charge}: {whole, part, fits} of a rate,
-- {start, used, fits, until, granted, overage, warned before, warned after} of others;
-- or {outcome, now, notes}: {index, overage, warned before, warned after} for each.
--
-- Whole numbers below 2^53 only. All is read and checked first and written last: a script is no transaction.

local RATE, CAP, SLOTS = 114, 99, 115   -- what an id begins with: r, c, s
local LARGEST_COST = 4503599627370496   -- 2^52
local HORIZON = 316224000000000         -- ten years
local KEPT = 60000000                   -- a minute, after a state has stopped to say anything
local REMEMBERED = '960000'             -- 16 minutes, in ms

local byte, find, format, sub, max, min = string.byte, string.find, string.format, string.sub, math.max, math.min
local call, pack, unpack_packed = redis.call, cmsgpack.pack, cmsgpack.unpack
local asked, rid, echo = unpack_packed(ARGV[1]), ARGV[2], ARGV[4]
local verb = asked[1]
local decides = verb == 'admit' or verb == 'topup'

local function number(i, nothing)
  local n = asked[i]
  if nothing and n == '' then
    return nil
  end
  if type(n) ~= 'number' or n < 0 or n > 9007199254740992 or n % 1 ~= 0 then
    error('mw: argument ' .. i .. ' is not a whole number in range', 0)
  end
  return n
end

local now
if asked[2] == -1 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = number(2)
end

if decides and now > number(3) then
  return pack({'late', now}) .. echo
end

-- Rates: moments and spans of whole us and a part of 1/denominator us.

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

local function normal(whole, part, denominator)
  if part >= denominator then
    return whole + 1, 0
  end
  return whole, part
end

local function is_less(whole, part, than_whole, than_part)
  return whole < than_whole or (whole == than_whole and part < than_part)
end

local function arrival(entry, denominator)
  local whole, part = 0, 0
  if entry then
    whole, part = normal(entry[1], entry[2], denominator)
  end
  if whole < now then
    return now, 0
  elseif is_less(now + HORIZON, 0, whole, part) then
    return now + HORIZON, 0
  end
  return whole, part
end

-- What is given back of a span that drains until `due`: what has drained is gone.
local function returned(entry, whole, part, due, denominator)
  local state, state_part = 0, 0
  if entry then
    state, state_part = normal(entry[1], entry[2], denominator)
  end
  local left = due - now
  if left <= 0 then
    return state, state_part
  elseif whole > left then
    whole, part = left, 0
  end
  return minus(state, state_part, whole, part, denominator)
end

-- Caps and slots.

local NEVER = {0, 0, 0, 0, 0, 0}

local function recounted(entry, change, held, unmarked, included, warn)
  local count = min(LARGEST_COST, max(0, entry[2] + change))
  local reserved = min(count, max(0, entry[4] + held))
  local known = count - reserved
  local overage, warned = max(0, entry[5] - unmarked), entry[6]
  if included then
    local became_known = max(0, known - (entry[2] - entry[4]))
    overage = max(overage, min(overage + became_known, known - included))
  end
  if warn ~= '' then
    for text in string.gmatch(warn, '%d+') do
      local threshold = tonumber(text)
      if threshold <= known and threshold > warned then
        warned = threshold
      end
    end
  end
  return {entry[1], count, entry[3], reserved, overage, warned}
end

-- The count that goes on now: the same while its window is open, else a new one.
local function standing(entry, w0, w1, w2, w3)
  local moment = max(entry[1], now)
  local opening, closing
  if w0 <= moment and moment < w1 then
    opening, closing = w0, w1
  elseif w1 <= moment and moment < w2 then
    opening, closing = w1, w2
  elseif w2 <= moment and moment < w3 then
    opening, closing = w2, w3
  else
    return entry
  end
  if now < entry[3] then
    return {entry[1], entry[2], closing, entry[4], entry[5], entry[6]}
  end
  return {opening, 0, closing, 0, 0, 0}
end

-- Holders: read, brought up to now, and written when all is decided.

local holders = {}

local function give_back(holder, id, hold)
  local entry = holder.entries[id]
  holder.changed = true
  if byte(id) == RATE then
    holder.entries[id] = {returned(entry, hold[2], hold[3], hold[4], hold[5])}
  elseif byte(id) == SLOTS then
    if entry then
      holder.entries[id] = {0, max(0, entry[2] - hold[3]), entry[3], 0, 0, 0}
    end
  elseif entry and entry[1] == hold[2] then
    holder.entries[id] = recounted(entry, -hold[3], -hold[3], 0, nil, '')
  end
end

local function take_back_what_is_due(holder)
  local fields = call('HGETALL', holder.held)
  local over, due = {}, 0
  for i = 1, #fields, 2 do
    local hold = unpack_packed(fields[i + 1])
    if hold[1] <= now then
      over[#over + 1] = {hold[1], fields[i], hold}
    elseif due == 0 or hold[1] < due then
      due = hold[1]
    end
  end
  table.sort(over, function(a, b)
    return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
  end)
  for _, each in ipairs(over) do
    give_back(holder, sub(each[2], 17), each[3])
    holder.gone[#holder.gone + 1] = each[2]
    holder.holds[each[2]] = false
  end
  holder.due, holder.changed = due, true
end

for k = 1, math.floor(#KEYS / 2) do
  local holder = {
    state = KEYS[2 * k - 1], held = KEYS[2 * k], seen = 0, entries = {}, due = 0, last = 0,
    holds = {}, put = {}, gone = {}
  }
  local stored = call('GET', holder.state)
  if stored then
    local state = unpack_packed(stored)
    if type(state) ~= 'table' or type(state[1]) ~= 'number' or type(state[2]) ~= 'table' then
      error('mw: the key of a holder holds something else', 0)
    end
    holder.seen, holder.entries, holder.due, holder.last = state[1], state[2], state[3] or 0, state[4] or 0
  end
  if now < holder.seen then
    for id, entry in pairs(holder.entries) do
      if byte(id) == RATE then
        entry[1] = entry[1] - (holder.seen - now)
      end
    end
    holder.rewound = true
  end
  if holder.due > 0 and now >= holder.due then
    take_back_what_is_due(holder)
  end
  holders[k] = holder
end

local function held_by(holder, whose, id)
  local name = whose .. id
  if holder.holds[name] == nil then
    local hold = holder.due > 0 and call('HGET', holder.held, name)
    holder.holds[name] = hold and unpack_packed(hold) or false
  end
  return holder.holds[name]
end

local function let_go(holder, whose, id)
  holder.gone[#holder.gone + 1] = whose .. id
end

local function hold(holder, id, what)
  holder.put[#holder.put + 1] = rid .. id
  holder.put[#holder.put + 1] = pack(what)
  if holder.due == 0 or what[1] < holder.due then
    holder.due = what[1]
  end
  holder.last = max(holder.last, what[1])
  holder.changed = true
end

local function write()
  for _, holder in ipairs(holders) do
    for i = 1, #holder.gone, 500 do
      call('HDEL', holder.held, unpack(holder.gone, i, min(i + 499, #holder.gone)))
    end
    local holds = holder.due > 0
    local latest = holds and holder.last or 0
    if holder.changed or holder.rewound then
      for id, entry in pairs(holder.entries) do
        local until_us = byte(id) == RATE and entry[1] or entry[3]
        if holder.changed and until_us + KEPT < now then
          holder.entries[id] = nil
        else
          latest = max(latest, until_us)
        end
      end
      local ms = format('%.0f', max(1000, math.ceil((latest + KEPT - now) / 1000)))
      if latest > 0 then
        local leases = holds and {now, holder.entries, holder.due, holder.last}
        call('SET', holder.state, pack(leases or {now, holder.entries}), 'PX', ms)
      else
        call('DEL', holder.state)
      end
      if #holder.put > 0 then
        call('HSET', holder.held, unpack(holder.put))
      end
      if holds then
        call('PEXPIRE', holder.held, ms)
      end
    end
  end
end

local function reply(word, ...)
  if verb ~= 'peek' then
    write()
  end
  return pack({word, now, ...}) .. echo
end

-- What is already known of the request.

local rids = KEYS[#KEYS]
local known = verb ~= 'peek' and call('HGET', rids, rid)
local fate = known and find('svd', sub(known, 1, 1), 1, true) and sub(known, 1, 1)
local charged = known and not fate and unpack_packed(known)

local function taken_of(id)
  if charged then
    for i = 1, #charged[1], 4 do
      if charged[1][i] == id then
        return charged[1][i + 1], charged[1][i + 2], charged[1][i + 3]
      end
    end
  end
end

-- Closings may not fail for want of memory, and they do not: Redis lets a script go on that has begun with a
-- write which needs none.
local function mark(word)
  local lives = call('PEXPIRE', rids, REMEMBERED)
  call('HSET', rids, rid, word)
  if lives == 0 then
    call('PEXPIRE', rids, REMEMBERED)
  end
end

local function book_rate(holder, id, i)
  local denominator, whole, part = number(i), number(i + 1), number(i + 2)
  local hold_of, had, had_part, due = held_by(holder, rid, id), taken_of(id)
  if hold_of then
    had, had_part, due = hold_of[2], hold_of[3], hold_of[4]
    let_go(holder, rid, id)
  end
  had, had_part = normal(had or 0, had_part or 0, denominator)
  local entry, after, after_part = holder.entries[id], nil, nil
  if is_less(had, had_part, whole, part) then
    local from, from_part = arrival(entry, denominator)
    whole, part = minus(whole, part, had, had_part, denominator)
    after, after_part = plus(from, from_part, whole, part, denominator)
  elseif is_less(whole, part, had, had_part) then
    whole, part = minus(had, had_part, whole, part, denominator)
    after, after_part = returned(entry, whole, part, due or 0, denominator)
  else
    return
  end
  if after ~= (entry and entry[1] or 0) or after_part ~= (entry and entry[2] or 0) then
    holder.entries[id] = {after, after_part}
    holder.changed = true
  end
end

local function book_cap(holder, id, i)
  local actual, window, closing = number(i), number(i + 1), number(i + 2)
  local included, warn = number(i + 3, true), asked[i + 4]
  local hold_of, start, units, overage = held_by(holder, rid, id), taken_of(id)
  local base, held = 0, 0
  if hold_of then
    start, units, base, held, overage = hold_of[2], hold_of[3], hold_of[4], hold_of[3], 0
    let_go(holder, rid, id)
  end
  start, units, overage = start or window, units or 0, overage or 0
  local change = max(0, actual - base) - units
  local before = holder.entries[id] or NEVER
  if start < before[1] then
    return
  elseif start >= before[3] then
    if change <= 0 then
      return
    end
    before = {start, 0, start == window and closing or start, 0, 0, 0}
  elseif change == 0 and held == 0 then
    return
  end
  local unmarked = min(overage, max(0, -change))
  local after = recounted(before, change, -held, unmarked, included, warn)
  holder.entries[id] = after
  holder.changed = true
  local marked = max(0, after[5] - before[5] + unmarked)
  if marked > 0 or after[6] > before[6] then
    local from, to = 0, 0
    if after[6] > before[6] then
      from, to = before[6], after[6]
    end
    return {0, marked, from, to}
  end
end

if verb == 'settle' or verb == 'cancel' then
  if fate == 's' then
    return reply('already', #known > 1 and unpack_packed(sub(known, 2)) or {})
  elseif fate then
    return reply('void', {})
  end
  local notes = {}
  for i = 3, #asked, 7 do
    local holder, id = holders[number(i)], asked[i + 1]
    local note
    if byte(id) == RATE then
      book_rate(holder, id, i + 2)
    elseif byte(id) == CAP then
      note = book_cap(holder, id, i + 2)
    else
      local slot = held_by(holder, rid, id)
      if slot then
        give_back(holder, id, slot)
        let_go(holder, rid, id)
      end
    end
    if note and verb == 'settle' then
      note[1] = (i - 3) / 7
      notes[#notes + 1] = note
    end
  end
  mark((verb == 'settle' and 's' or 'v') .. (notes[1] and pack(notes) or ''))
  return reply(known and 'applied' or 'recovered', notes)
end

if fate and not (fate == 'd' and verb == 'admit') then
  return reply('void')
end
local repeated = verb == 'admit' and (charged or fate == 'd')

-- How each charge stands: what it needs and takes beyond what the request holds already, and whether it fits.

local lease, on_deny, after_rid, FIRST = 0, 'none', '', 3
if decides then
  lease, on_deny, after_rid, FIRST = number(4), asked[5], ARGV[3], 6
end

local function beyond(whole, part, had, had_part, denominator)
  if not is_less(had, had_part, whole, part) then
    return 0, 0
  end
  return minus(whole, part, had, had_part, denominator)
end

local function ask_rate(ask, i)
  local denominator = number(i + 6)
  local had, had_part = 0, 0
  if ask.hold then
    had, had_part = normal(ask.hold[2], ask.hold[3], denominator)
  end
  ask.denominator, ask.had, ask.had_part = denominator, had, had_part
  ask.whole, ask.part = arrival(ask.holder.entries[ask.id], denominator)
  ask.tolerance, ask.tolerance_part = number(i + 4), number(i + 5)
  local need, need_part = beyond(number(i), number(i + 1), had, had_part, denominator)
  ask.take, ask.take_part = beyond(number(i + 2), number(i + 3), had, had_part, denominator)
  local late, late_part = plus(ask.whole - now, ask.part, need, need_part, denominator)
  ask.fits = need + need_part == 0 or not is_less(ask.tolerance, ask.tolerance_part, late, late_part)
  return true
end

local function ask_count(ask, i)
  local need, take, most = number(i), number(i + 1), number(i + 2)
  local entry = ask.holder.entries[ask.id] or NEVER
  if byte(ask.id) == CAP then
    local w0, w1, w2, w3 = number(i + 3), number(i + 4), number(i + 5), number(i + 6)
    if not (repeated or (w0 <= now and now < w3)) then
      return false
    end
    ask.included, ask.warn = number(i + 7, true), asked[i + 8]
    entry = standing(entry, w0, w1, w2, w3)
  end
  local room = most - entry[2]
  if byte(ask.id) == SLOTS and after_rid ~= '' then
    ask.handed = held_by(ask.holder, after_rid, ask.id)
    room = room + (ask.handed and ask.handed[3] or 0)
  end
  local had = ask.hold and ask.hold[4] + ask.hold[3] or 0
  need, take = max(0, need - had), max(0, take - had)
  ask.entry, ask.fits, ask.granted = entry, need <= max(0, room), min(take, max(need, room))
  return true
end

local asks, fits, shadows_fit = {}, true, true

for i = FIRST, #asked, 12 do
  local flags = number(i + 2)
  local ask = {holder = holders[number(i)], id = asked[i + 1], held = flags % 2 == 1, shadow = flags > 1}
  if ask.held and decides and not repeated then
    ask.hold = held_by(ask.holder, rid, ask.id)
  end
  local covered
  if byte(ask.id) == RATE then
    covered = ask_rate(ask, i + 3)
  else
    covered = ask_count(ask, i + 3)
  end
  if not covered then
    return reply('refresh')
  end
  asks[#asks + 1] = ask
  if ask.shadow then
    shadows_fit = shadows_fit and ask.fits
  else
    fits = fits and ask.fits
  end
end

local NOTHING = {0, 0, 0, 0}

-- A reading, as of before the charge; `said` is what else there is to tell of a count.
local function read(ask, fit, said)
  fit = fit and 1 or 0
  if ask.whole then
    return {ask.whole, ask.part, fit}
  end
  local entry = ask.entry
  said = said or NOTHING
  return {entry[1], entry[2], fit, entry[3], said[1], said[2], said[3], said[4]}
end

local function all_read(of)
  local readings = {}
  for k, ask in ipairs(asks) do
    readings[k] = of(ask, k)
  end
  return unpack(readings)
end

if repeated and fate == 'd' then
  return reply('denied', all_read(function(ask, k)
    return read(ask, sub(known, k + 1, k + 1) == '1')
  end))
elseif repeated then
  local said = charged[2]
  return reply('admitted', all_read(function(ask, k)
    if said and not said[k] then
      return read(ask, ask.fits)
    end
    return read(ask, true, said and said[k] or ask.granted and {ask.granted, 0, 0, 0})
  end))
end

if verb == 'peek' or not fits and on_deny == 'none' then
  return reply(fits and 'admitted' or 'denied', all_read(function(ask)
    return read(ask, ask.fits)
  end))
end

if not fits then
  local flags = ''
  for _, ask in ipairs(asks) do
    flags = flags .. (ask.fits and '1' or '0')
    if ask.whole and not ask.shadow and (on_deny == 'all' or not ask.fits) then
      local full, full_part = plus(now, 0, ask.tolerance, ask.tolerance_part, ask.denominator)
      local whole, part = plus(ask.whole, ask.part, ask.take, ask.take_part, ask.denominator)
      if is_less(full, full_part, whole, part) then
        whole, part = full, full_part
      end
      if is_less(ask.whole, ask.part, whole, part) then
        ask.whole, ask.part = whole, part
      end
      ask.holder.entries[ask.id] = {ask.whole, ask.part}
      ask.holder.changed = true
    end
  end
  local denied = reply('denied', all_read(function(ask)
    return read(ask, ask.fits)
  end))
  mark('d' .. flags)
  return denied
end

-- The charge. What a request is charged for good is kept with the request, what it holds with the holder.

local taken, said, special = {}, {}, false

local function charge_rate(ask)
  local takes = ask.take + ask.take_part > 0
  ask.whole, ask.part = plus(ask.whole, ask.part, ask.take, ask.take_part, ask.denominator)
  if takes then
    ask.holder.entries[ask.id] = {ask.whole, ask.part}
    ask.holder.changed = true
  end
  if not ask.held then
    if takes then
      local n = #taken
      taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = ask.id, ask.take, ask.take_part, ask.whole
    end
  elseif takes or ask.hold then
    local whole, part = plus(ask.had, ask.had_part, ask.take, ask.take_part, ask.denominator)
    hold(ask.holder, ask.id, {now + lease, whole, part, ask.whole, ask.denominator})
  end
end

local function charge_count(ask)
  local before, units, after = ask.entry, ask.granted, nil
  if byte(ask.id) == SLOTS then
    local handed = ask.handed and ask.handed[3] or 0
    after = {0, before[2] - handed + units, max(before[3], now + lease), 0, 0, 0}
    if ask.handed then
      let_go(ask.holder, after_rid, ask.id)
    end
  else
    after = recounted(before, units, ask.held and units or 0, 0, ask.included, ask.warn)
  end
  if units > 0 or ask.hold or ask.handed then
    ask.holder.entries[ask.id] = after
    ask.holder.changed = true
  end
  local overage, from, to = after[5] - before[5], 0, 0
  if after[6] > before[6] then
    from, to = before[6], after[6]
  end
  local start, total, base = after[1], units, 0
  if ask.hold and ask.hold[2] == start then
    total, base = ask.hold[3] + units, ask.hold[4]
  elseif ask.hold then
    base = ask.hold[4] + ask.hold[3]
  end
  if not ask.held then
    if units > 0 then
      local n = #taken
      taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = ask.id, start, units, overage
    end
  elseif units > 0 or ask.hold then
    hold(ask.holder, ask.id, {now + lease, start, total, base})
  end
  ask.entry = after
  special = special or ask.held or overage > 0 or to > 0
  return {base + total, overage, from, to}
end

for k, ask in ipairs(asks) do
  ask.applied = not ask.shadow or (verb == 'topup' and ask.fits) or (verb == 'admit' and shadows_fit)
  if not ask.applied then
    said[k], special = false, true
  elseif ask.whole then
    charge_rate(ask)
    said[k] = NOTHING
  else
    said[k] = charge_count(ask)
  end
end

local admitted = reply('admitted', all_read(function(ask, k)
  return read(ask, ask.applied or ask.fits, ask.applied and said[k])
end))
if verb == 'admit' then
  call('HSET', rids, rid, pack({taken, special and said or nil}))
  call('PEXPIRE', rids, REMEMBERED)
end
return admitted
