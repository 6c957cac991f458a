-- Decides and books in one step, for all holders of quotas that a request is about: the same sums as the
-- reference store in memory.
--
-- KEYS     for each holder two: its state; and a hash of what is held of it: 16 bytes of rid, then id -> a hold,
--          packed; and last, but for peek, a hash of what became of the requests of one minute, by the 16 bytes
--          of their rids: s and the notes, settled; v, void; d and a digit a charge, denied and counted;
--          or a and packed numbers, admitted and not ended: see `charged`
-- ARGV[1]  packed, one value after the other: the time in us, or -1 for the server's own, which is what all but
--          tests want; the last us at which it may still be decided; admit, topup, settle, cancel or peek;
--          the us that a hold lasts; none, self or all: which rates a denied request counts against; 1 for the
--          short way, or 0; then, for admit, topup and peek, twelve for each charge: holder, id, flags (1 held, 2 shadow), and
--          of a rate  need: whole, part, take: whole, part, tolerance: whole, part, denominator, 0, 0
--          of a cap   need, take, most, four boundaries of windows, what is included or '', thresholds
--          of slots   need, take, most, 0, 0, 0, 0, '', ''
--          and, for settle and cancel, seven for each booking: holder, id, and
--          of a rate  denominator, actual: whole, part, 0, 0
--          of a cap   actual, window, its closing, what is included or '', thresholds
--          of slots   0, 0, 0, '', ''
--          That numbers are whole, and where they lie, is seen to where they are packed.
-- ARGV[2]  the rid's 16 bytes
-- ARGV[3]  for admit: the 16 bytes of a rid whose slots are handed over, or nothing
-- ARGV[4]  what every reply ends with
--
-- A state is packed, one value after the other: when it was written; when its first and its last hold is over,
-- if it has any; and of each quota its id, and of a rate {whole - written, part}, of a cap or slots
-- {start, used, until}, and {held, overage, warned} if it has any. So a clock that goes back takes the rates'
-- arrivals back with it. Here an entry is {whole, part} of a rate, and all six of a cap or slots.
-- A hold is {until, whole, part, due, denominator} of a rate, {until, start, units, base} of a cap or slots.
--
-- Replies, packed: {verdict, now, readings} or {outcome, now, notes}, as `port.py` has them.
--
-- Whole numbers below 2^53 only. All is read and checked first and written last: a script is no transaction.

local RATE, CAP, SLOTS = 114, 99, 115   -- what an id begins with: r, c, s
local LARGEST_COST = 4503599627370496   -- 2^52
local HORIZON = 316224000000000         -- ten years
local KEPT = 60000000                   -- a minute, after a state has stopped to say anything
local REMEMBERED = '960000'             -- 16 minutes, in ms
local SECOND = 1000000

local byte, char, sub, max, min = string.byte, string.char, string.sub, math.max, math.min
local call, pack, unpack_packed = redis.call, cmsgpack.pack, cmsgpack.unpack
local asked, rid = {unpack_packed(ARGV[1])}, ARGV[2]
local now, verb, lease, on_deny = asked[1], asked[3], asked[4], asked[5]
local FIRST = 7
if now < 0 then
  local time = call('TIME')
  now = time[1] * SECOND + time[2]
end

-- Arrays of readings and notes, packed.
local NONE = '\144'

local function array(packed)
  local n = #packed
  return (n < 16 and char(144 + n) or '\220' .. char(math.floor(n / 256), n % 256)) .. table.concat(packed)
end

if asked[2] < now and (verb == 'admit' or verb == 'topup') then
  return '\147' .. pack('late', now) .. NONE .. ARGV[4]
end

-- A moment as it is kept: what is a whole second is counted in seconds, below 0, and takes half the room.
local function brief(moment)
  return moment % SECOND == 0 and moment / -SECOND or moment
end

local function moment_of(kept)
  return kept < 0 and kept * -SECOND or kept
end

-- The short way, for what most requests are: an admission that holds nothing, of its subject's own rates and caps.
-- The same sums as below, in one go. Where it is not plainly admitted the long way begins anew, and decides.

local function admit_shortly()
  local stored = call('GET', KEYS[1])
  local kept = stored and {unpack_packed(stored)} or {now}
  if stored and type(kept[2]) ~= 'string' or now < kept[1] then
    return nil
  end
  local places, n, i, behind = {}, #kept, 2, now - kept[1]
  while i <= n do
    local id = kept[i]
    places[id] = i
    if byte(id) == RATE then
      kept[i + 1] = kept[i + 1] - behind
      i = i + 3
    elseif type(kept[i + 4]) == 'number' then
      return nil
    else
      i = i + 4
    end
  end
  local taken, readings, changed = {0}, {}, false
  for c = FIRST, #asked, 12 do
    local id, need, need_more, take, take_more = asked[c + 1], asked[c + 3], asked[c + 4], asked[c + 5], asked[c + 6]
    local place, t = places[id], #taken
    if byte(id) == RATE then
      local ahead, part, denominator = 0, 0, asked[c + 9]
      if place then
        ahead, part = kept[place + 1], kept[place + 2]
        if part >= denominator then
          ahead, part = ahead + 1, 0
        end
        if ahead < 0 then
          ahead, part = 0, 0
        end
      end
      if need + need_more > 0 then
        local late, late_part = ahead + need, part + need_more
        if late_part >= denominator then
          late, late_part = late + 1, late_part - denominator
        end
        local most = asked[c + 7]
        if late > most or late == most and late_part > asked[c + 8] then
          return nil
        end
      end
      if ahead >= HORIZON then
        return nil
      elseif take + take_more > 0 then
        ahead, part = ahead + take, part + take_more
        if part >= denominator then
          ahead, part = ahead + 1, part - denominator
        end
        if not place then
          place, n = n + 1, n + 3
          kept[place] = id
        end
        kept[place + 1], kept[place + 2], changed = ahead, part, true
        taken[t + 1], taken[t + 2], taken[t + 3], taken[t + 4] = id, take, take_more, now + ahead
      end
      readings[#readings + 1] = '\146\146' .. pack(now + ahead, part, true)
    else
      local most, w0, w1, w2, w3, warn = take, take_more, asked[c + 7], asked[c + 8], asked[c + 9], asked[c + 11]
      take = need_more
      local start, used, till = 0, 0, 0
      if place then
        start, used, till = moment_of(kept[place + 1]), kept[place + 2], moment_of(kept[place + 3])
      end
      local moment = start < now and now or start
      local opening, closing = w1, w2
      if moment < w1 then
        opening, closing = w0, w1
      elseif moment >= w2 then
        opening, closing = w2, w3
      end
      if now < w0 or moment >= w3 or asked[c + 10] ~= '' then
        return nil
      elseif now >= till then
        start, used = opening, 0
      end
      used = used + take
      if used - take + need > most or warn ~= '' and used >= tonumber(string.match(warn, '%d+')) then
        return nil
      elseif take > 0 then
        if not place then
          place, n = n + 1, n + 4
          kept[place] = id
        end
        local begun = brief(start)
        kept[place + 1], kept[place + 2], kept[place + 3], changed = begun, used, brief(closing), true
        taken[t + 1], taken[t + 2], taken[t + 3], taken[t + 4] = id, begun, take, 0
      end
      readings[#readings + 1] = '\148\146' .. pack(start, used, true, closing, take)
    end
  end
  local latest, oldest = 0, now - KEPT
  i = 2
  while i <= n do
    local is_rate = byte(kept[i]) == RATE
    local till = is_rate and now + kept[i + 1] or moment_of(kept[i + 3])
    if till < oldest then
      return nil
    elseif till > latest then
      latest = till
    end
    i = i + (is_rate and 3 or 4)
  end
  taken[1] = #taken
  if call('HSETNX', KEYS[3], rid, 'a' .. pack(unpack(taken))) == 0 then
    return nil
  end
  call('PEXPIRE', KEYS[3], REMEMBERED)
  if changed then
    kept[1] = now
    call('SET', KEYS[1], pack(unpack(kept)), 'PX', max(1000, math.ceil((latest + KEPT - now) / 1000)))
  end
  return '\147' .. pack('admitted', now) .. array(readings) .. ARGV[4]
end

local shortly = asked[6] == 1 and admit_shortly()
if shortly then
  return shortly
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
  if not entry then
    return now, 0
  end
  local whole, part = normal(entry[1], entry[2], denominator)
  if whole < now then
    return now, 0
  elseif is_less(now + HORIZON, 0, whole, part) then
    return now + HORIZON, 0
  end
  return whole, part
end

-- Caps and slots.

local NEVER = {0, 0, 0, 0, 0, 0}

local function recounted(entry, change, held, unmarked, included, warn)
  local count = min(LARGEST_COST, max(0, entry[2] + change))
  local reserved = min(count, max(0, entry[4] + held))
  local known = count - reserved
  local overage, warned = max(0, entry[5] - unmarked), entry[6]
  if included ~= '' then
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

-- Holders: read, brought up to now, and written when all is decided.

local function give_back(holder, id, hold)
  local entry = holder.entries[id]
  holder.changed = true
  if byte(id) == RATE then
    -- What is given back of a span that drains until `due`: what has drained is gone.
    local whole, part, left, denominator = hold[2], hold[3], hold[4] - now, hold[5]
    local state, state_part = 0, 0
    if entry then
      state, state_part = normal(entry[1], entry[2], denominator)
    end
    if left > 0 then
      if whole > left then
        whole, part = left, 0
      end
      state, state_part = minus(state, state_part, whole, part, denominator)
    end
    holder.entries[id] = {state, state_part}
  elseif byte(id) == SLOTS then
    if entry then
      holder.entries[id] = {0, max(0, entry[2] - hold[3]), entry[3], 0, 0, 0}
    end
  elseif entry and entry[1] == hold[2] then
    holder.entries[id] = recounted(entry, -hold[3], -hold[3], 0, '', '')
  end
end

local function let_go(holder, name)
  holder.gone = holder.gone or {}
  holder.gone[#holder.gone + 1] = name
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
    let_go(holder, each[2])
    holder.holds[each[2]] = false
  end
  holder.due, holder.changed = due, true
end

local function entries_of(kept, first, written)
  local entries, i, n = {}, first, #kept
  while i <= n do
    local id = kept[i]
    local letter = byte(id)
    if letter == RATE then
      entries[id] = {written + kept[i + 1], kept[i + 2]}
      i = i + 3
    elseif letter ~= CAP and letter ~= SLOTS then
      error('mw: the key of a holder holds something else', 0)
    elseif type(kept[i + 4]) == 'number' then
      local start, used, till = moment_of(kept[i + 1]), kept[i + 2], moment_of(kept[i + 3])
      entries[id] = {start, used, till, kept[i + 4], kept[i + 5], kept[i + 6]}
      i = i + 7
    else
      entries[id] = {moment_of(kept[i + 1]), kept[i + 2], moment_of(kept[i + 3]), 0, 0, 0}
      i = i + 4
    end
  end
  return entries
end

local function load()
  local holders = {}
  for k = 1, #KEYS / 2 do
    local stored = call('GET', KEYS[2 * k - 1])
    local due, last, entries, rewound = 0, 0, nil, false
    if stored then
      local kept, first = {unpack_packed(stored)}, 2
      if type(kept[2]) == 'number' then
        due, last, first = kept[2], kept[3], 4
      end
      if type(kept[1]) ~= 'number' or not last or first == 2 and not kept[2] then
        error('mw: the key of a holder holds something else', 0)
      end
      rewound = now < kept[1]
      entries = entries_of(kept, first, min(now, kept[1]))
    end
    local holder = {
      state = KEYS[2 * k - 1], held = KEYS[2 * k], entries = entries or {}, due = due, last = last,
      changed = false, rewound = rewound, holds = due > 0 and {}
    }
    if due > 0 and now >= due then
      take_back_what_is_due(holder)
    end
    holders[k] = holder
  end
  return holders
end

local holders = load()

local function held_by(holder, whose, id)
  if holder.due == 0 then
    return false
  end
  local name = whose .. id
  if holder.holds[name] == nil then
    local hold = call('HGET', holder.held, name)
    holder.holds[name] = hold and unpack_packed(hold) or false
  end
  return holder.holds[name]
end

local function hold(holder, id, what)
  holder.put = holder.put or {}
  holder.put[#holder.put + 1] = rid .. id
  holder.put[#holder.put + 1] = pack(what)
  if holder.due == 0 or what[1] < holder.due then
    holder.due = what[1]
  end
  holder.last = max(holder.last, what[1])
  holder.changed = true
end

local function write_state(holder)
  local holds = holder.due > 0
  local latest = holds and holder.last or 0
  local kept = holds and {now, holder.due, holder.last} or {now}
  local n, oldest = #kept, holder.changed and now - KEPT or 0
  for id, entry in pairs(holder.entries) do
    local first, is_rate = entry[1], byte(id) == RATE
    local till = is_rate and first or entry[3]
    if till >= oldest then
      latest = max(latest, till)
      if is_rate then
        kept[n + 1], kept[n + 2], kept[n + 3] = id, first - now, entry[2]
        n = n + 3
      else
        kept[n + 1], kept[n + 2], kept[n + 3], kept[n + 4] = id, brief(first), entry[2], brief(till)
        n = n + 4
        if entry[4] + entry[5] + entry[6] > 0 then
          kept[n + 1], kept[n + 2], kept[n + 3] = entry[4], entry[5], entry[6]
          n = n + 3
        end
      end
    end
  end
  local ms = max(1000, math.ceil((latest + KEPT - now) / 1000))
  if latest > 0 then
    call('SET', holder.state, pack(unpack(kept)), 'PX', ms)
  else
    call('DEL', holder.state)
  end
  if holder.put then
    call('HSET', holder.held, unpack(holder.put))
  end
  if holds then
    call('PEXPIRE', holder.held, ms)
  end
end

local function reply(word, told)
  for k = 1, verb ~= 'peek' and #holders or 0 do
    local holder, gone = holders[k], holders[k].gone
    for i = 1, gone and #gone or 0, 500 do
      call('HDEL', holder.held, unpack(gone, i, min(i + 499, #gone)))
    end
    if holder.changed or holder.rewound then
      write_state(holder)
    end
  end
  return '\147' .. pack(word, now) .. (told or NONE) .. ARGV[4]
end

-- What is already known of the request: s, v, d or a, and `charged`: how many values say what it was charged for
-- good, those, four for each quota: id, take: whole, part, due of a rate, id, start, units, overage of a cap;
-- and, where there is more to tell, what its answer said of each charge: granted, overage, warned before and
-- after; or false, of a shadow that was not charged.

local rids, known, fate, charged = KEYS[#KEYS], nil, nil, nil

local function recall()
  known = call('HGET', rids, rid)
  fate = known and sub(known, 1, 1)
  charged = fate == 'a' and {unpack_packed(sub(known, 2))}
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

if verb == 'settle' or verb == 'cancel' then
  local function taken_of(id)
    for i = 2, charged and charged[1] or 0, 4 do
      if charged[i] == id then
        return charged[i + 1], charged[i + 2], charged[i + 3]
      end
    end
  end

  local function book_rate(holder, id, i)
    local denominator, whole, part = asked[i], asked[i + 1], asked[i + 2]
    local hold_of, had, had_part, due = held_by(holder, rid, id), taken_of(id)
    if hold_of then
      had, had_part, due = hold_of[2], hold_of[3], hold_of[4]
      let_go(holder, rid .. id)
    end
    had, had_part = normal(had or 0, had_part or 0, denominator)
    local entry = holder.entries[id]
    if is_less(had, had_part, whole, part) then
      local from, from_part = arrival(entry, denominator)
      whole, part = minus(whole, part, had, had_part, denominator)
      holder.entries[id] = {plus(from, from_part, whole, part, denominator)}
      holder.changed = true
    elseif is_less(whole, part, had, had_part) then
      local changed = holder.changed
      whole, part = minus(had, had_part, whole, part, denominator)
      give_back(holder, id, {0, whole, part, due or 0, denominator})
      local after = holder.entries[id]
      if after[1] == (entry and entry[1] or 0) and after[2] == (entry and entry[2] or 0) then
        holder.entries[id], holder.changed = entry, changed
      end
    end
  end

  local function book_cap(holder, id, i)
    local actual, window, closing, included, warn = unpack(asked, i, i + 4)
    local hold_of, start, units, overage = held_by(holder, rid, id), taken_of(id)
    local base, held = 0, 0
    if hold_of then
      start, units, base, held, overage = hold_of[2], hold_of[3], hold_of[4], hold_of[3], 0
      let_go(holder, rid .. id)
    end
    start, units, overage = start and moment_of(start) or window, units or 0, overage or 0
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
    local from, to = 0, 0
    if after[6] > before[6] then
      from, to = before[6], after[6]
    end
    return (marked > 0 or to > 0) and {marked, from, to}
  end

  recall()
  if fate == 's' then
    return reply('already', #known > 1 and sub(known, 2) or NONE)
  elseif fate and fate ~= 'a' then
    return reply('void')
  end
  local notes = {}
  for i = FIRST, #asked, 7 do
    local holder, id = holders[asked[i]], asked[i + 1]
    local letter, note = byte(id), nil
    if letter == RATE then
      book_rate(holder, id, i + 2)
    elseif letter == CAP then
      note = book_cap(holder, id, i + 2)
    else
      local slot = held_by(holder, rid, id)
      if slot then
        give_back(holder, id, slot)
        let_go(holder, rid .. id)
      end
    end
    if note and verb == 'settle' then
      notes[#notes + 1] = '\147' .. pack((i - FIRST) / 7, note[1]) .. '\146' .. pack(note[2], note[3])
    end
  end
  local told = array(notes)
  mark((verb == 'settle' and 's' or 'v') .. (notes[1] and told or ''))
  return reply(known and 'applied' or 'recovered', told)
end

-- How each charge stands: what it needs and takes beyond what the request holds already, and whether it fits.

local asks, fits, shadows_fit

local function beyond(whole, part, had, had_part, denominator)
  if not is_less(had, had_part, whole, part) then
    return 0, 0
  end
  return minus(whole, part, had, had_part, denominator)
end

local function ask_rate(holder, id, flags, hold_of, i)
  local need, need_part, take, take_part = asked[i], asked[i + 1], asked[i + 2], asked[i + 3]
  local denominator = asked[i + 6]
  local had, had_part = 0, 0
  if hold_of then
    had, had_part = normal(hold_of[2], hold_of[3], denominator)
    need, need_part = beyond(need, need_part, had, had_part, denominator)
    take, take_part = beyond(take, take_part, had, had_part, denominator)
  end
  local whole, part = arrival(holder.entries[id], denominator)
  local late, late_part = plus(whole - now, part, need, need_part, denominator)
  return {
    holder = holder, id = id, is_rate = true, held = flags % 2 == 1, shadow = flags > 1, hold = hold_of, at = i,
    whole = whole, part = part, take = take, take_part = take_part, had = had, had_part = had_part,
    fits = need + need_part == 0 or not is_less(asked[i + 4], asked[i + 5], late, late_part)
  }
end

-- The count that goes on now: the same while its window is open, else a new one.
local function standing(entry, w0, w1, w2, w3)
  local moment = max(entry[1], now)
  local opening, closing
  if w1 <= moment and moment < w2 then
    opening, closing = w1, w2
  elseif w0 <= moment and moment < w1 then
    opening, closing = w0, w1
  elseif w2 <= moment and moment < w3 then
    opening, closing = w2, w3
  else
    return entry
  end
  if now >= entry[3] then
    return {opening, 0, closing, 0, 0, 0}
  elseif closing == entry[3] then
    return entry
  end
  return {entry[1], entry[2], closing, entry[4], entry[5], entry[6]}
end

local function ask_count(holder, id, flags, hold_of, i, repeated)
  local need, take, most = asked[i], asked[i + 1], asked[i + 2]
  local entry, handed = holder.entries[id] or NEVER, false
  if byte(id) == CAP then
    local w0, w3 = asked[i + 3], asked[i + 6]
    if not repeated and (now < w0 or now >= w3) then
      return nil
    end
    entry = standing(entry, w0, asked[i + 4], asked[i + 5], w3)
  elseif ARGV[3] ~= '' then
    handed = held_by(holder, ARGV[3], id)
  end
  local room = most - entry[2] + (handed and handed[3] or 0)
  if hold_of then
    local had = hold_of[4] + hold_of[3]
    need, take = max(0, need - had), max(0, take - had)
  end
  return {
    holder = holder, id = id, is_rate = false, held = flags % 2 == 1, shadow = flags > 1, hold = hold_of, at = i,
    entry = entry, handed = handed, granted = min(take, max(need, room)), total = 0, overage = 0, from = 0, to = 0,
    fits = need <= max(0, room)
  }
end

-- Looks at all charges; says whether the windows of all lie around now.
local function look(repeated)
  asks, fits, shadows_fit = {}, true, true
  local decides = verb ~= 'peek' and not repeated
  for i = FIRST, #asked, 12 do
    local holder, id, flags = holders[asked[i]], asked[i + 1], asked[i + 2]
    local hold_of = flags % 2 == 1 and decides and held_by(holder, rid, id)
    local ask
    if byte(id) == RATE then
      ask = ask_rate(holder, id, flags, hold_of, i + 3)
    else
      ask = ask_count(holder, id, flags, hold_of, i + 3, repeated)
    end
    if not ask then
      return false
    end
    asks[#asks + 1] = ask
    if ask.shadow then
      shadows_fit = shadows_fit and ask.fits
    else
      fits = fits and ask.fits
    end
  end
  return true
end

-- A reading: of a rate {{whole, part}, fits}; of others {{start, used}, fits, until, granted}, with overage and
-- {warned before, warned after} where there is any.
local function reading(ask, fit, granted, overage, from, to)
  if ask.is_rate then
    return '\146\146' .. pack(ask.whole, ask.part, fit)
  end
  local entry = ask.entry
  if overage + to == 0 then
    return '\148\146' .. pack(entry[1], entry[2], fit, entry[3], granted)
  end
  return '\150\146' .. pack(entry[1], entry[2], fit, entry[3], granted, overage) .. '\146' .. pack(from, to)
end

-- Readings as of before the charge.
local function before(fit_of)
  local readings = {}
  for k, ask in ipairs(asks) do
    readings[k] = reading(ask, fit_of and fit_of(k) or not fit_of and ask.fits, 0, 0, 0, 0)
  end
  return array(readings)
end

-- The charge. What a request is charged for good is kept with the request, what it holds with the holder.

local taken = {0}

local function charge_rate(ask)
  local holder, id, denominator = ask.holder, ask.id, asked[ask.at + 6]
  local take, take_part = ask.take, ask.take_part
  local takes = take + take_part > 0
  if takes then
    ask.whole, ask.part = plus(ask.whole, ask.part, take, take_part, denominator)
    holder.entries[id] = {ask.whole, ask.part}
    holder.changed = true
  end
  if ask.held then
    if takes or ask.hold then
      local whole, part = plus(ask.had, ask.had_part, take, take_part, denominator)
      hold(holder, id, {now + lease, whole, part, ask.whole, denominator})
    end
  elseif takes then
    local n = #taken
    taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = id, take, take_part, ask.whole
  end
end

local function charge_count(ask)
  local holder, id, earlier, units, held = ask.holder, ask.id, ask.entry, ask.granted, ask.held
  local after
  if byte(id) == SLOTS then
    local handed = ask.handed and ask.handed[3] or 0
    after = {0, earlier[2] - handed + units, max(earlier[3], now + lease), 0, 0, 0}
    if ask.handed then
      let_go(holder, ARGV[3] .. id)
    end
  else
    after = recounted(earlier, units, held and units or 0, 0, asked[ask.at + 7], asked[ask.at + 8])
  end
  if units > 0 or ask.hold or ask.handed then
    holder.entries[id] = after
    holder.changed = true
  end
  local start, total, base, hold_of = after[1], units, 0, ask.hold
  if hold_of and hold_of[2] == start then
    total, base = hold_of[3] + units, hold_of[4]
  elseif hold_of then
    base = hold_of[4] + hold_of[3]
  end
  ask.entry, ask.total, ask.overage = after, base + total, after[5] - earlier[5]
  if after[6] > earlier[6] then
    ask.from, ask.to = earlier[6], after[6]
  end
  if held then
    if units > 0 or hold_of then
      hold(holder, id, {now + lease, start, total, base})
    end
  elseif units > 0 then
    local n = #taken
    taken[n + 1], taken[n + 2], taken[n + 3], taken[n + 4] = id, brief(start), units, ask.overage
  end
end

-- Charges all, and gives the readings after it.
local function charge()
  local readings, special = {}, false
  for k, ask in ipairs(asks) do
    local applies = not ask.shadow or verb == 'topup' and ask.fits or verb == 'admit' and shadows_fit
    ask.applied = applies
    if not applies then
      special = true
      readings[k] = reading(ask, ask.fits, 0, 0, 0, 0)
    else
      if ask.is_rate then
        charge_rate(ask)
      else
        charge_count(ask)
        special = special or ask.held or ask.overage + ask.to > 0
      end
      readings[k] = reading(ask, true, ask.total, ask.overage, ask.from, ask.to)
    end
  end
  taken[1] = #taken
  for _, ask in ipairs(special and asks or {}) do
    local n = #taken
    if not ask.applied then
      taken[n + 1] = false
    else
      taken[n + 1], taken[n + 2] = ask.total or 0, ask.overage or 0
      taken[n + 3], taken[n + 4] = ask.from or 0, ask.to or 0
    end
  end
  return array(readings)
end

local covered

if verb == 'topup' then
  recall()
  if fate and fate ~= 'a' then
    return reply('void')
  end
end

covered = look(false)
if verb ~= 'admit' then
  if not covered then
    return reply('refresh')
  elseif verb == 'topup' and fits then
    return reply('admitted', charge())
  end
  return reply(fits and 'admitted' or 'denied', before())
end

-- Who is admitted is marked first: where there is a mark already, the request is known, and nothing is charged.
if covered and fits then
  local readings = charge()
  if call('HSETNX', rids, rid, 'a' .. pack(unpack(taken))) == 1 then
    call('PEXPIRE', rids, REMEMBERED)
    return reply('admitted', readings)
  end
  holders = load()
end

recall()
if charged then
  look(true)
  local readings, at = {}, charged[1] + 1
  local told = charged[at] ~= nil
  for k, ask in ipairs(asks) do
    if told and not charged[at] then
      readings[k] = reading(ask, ask.fits, 0, 0, 0, 0)
      at = at + 1
    elseif told then
      readings[k] = reading(ask, true, charged[at], charged[at + 1], charged[at + 2], charged[at + 3])
      at = at + 4
    else
      readings[k] = reading(ask, true, ask.granted, 0, 0, 0)
    end
  end
  return reply('admitted', array(readings))
elseif fate == 'd' then
  look(true)
  return reply('denied', before(function(k)
    return sub(known, k + 1, k + 1) == '1'
  end))
elseif fate then
  return reply('void')
elseif not covered then
  return reply('refresh')
elseif on_deny == 'none' then
  return reply('denied', before())
end

-- Denied, and counted all the same: what is left of the burst may go, and no debt arises.
local flags = 'd'
for _, ask in ipairs(asks) do
  flags = flags .. (ask.fits and '1' or '0')
  if ask.is_rate and not ask.shadow and (on_deny == 'all' or not ask.fits) then
    local denominator = asked[ask.at + 6]
    local full, full_part = plus(now, 0, asked[ask.at + 4], asked[ask.at + 5], denominator)
    local whole, part = plus(ask.whole, ask.part, ask.take, ask.take_part, denominator)
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
mark(flags)
return reply('denied', before())
