--[[ in place — running steps that ask for more; prepended at load after the waiters. One that cannot have it waits among the others, but in
its place, with its lease: its thread rests, and its worker asks again. "<path>|blocked" then has its claim as well, and "claim|<nonce>|asks" =
"<counter> waits <account> <meter> <asked> <free> <meter>=<amount> ...", "<counter> paid", or "<counter> refused <account> <meter> <asked> <free>". ]]
local MOST_PATIENT_MS = 10000  -- after which it draws on what others have free as well: those whom it waits for may need its worker

-- Whether what an attempt lacks is its step's own limit, which nobody else can widen.
local function own_limit(desk, attempt, lack)
  local own = lineage(desk.book, attempt.chain, lack[2])[1]
  return own.account == attempt.path and own.cap and own.cap - use(own) < tonumber(lack[3])
end

-- Reserves what it asks for.
local function top_up(desk, attempt)
  local claim = 'claim|' .. attempt.claim .. '|'
  local reserved = amounts(redis.call('HGET', desk.attempts, claim .. 'reserved'))
  for meter, asked in pairs(attempt.estimate) do reserved[meter] = (reserved[meter] or 0) + asked end
  book_estimate(desk, attempt)
  later(desk, 'HSET', desk.attempts, claim .. 'reserved', said_amounts(reserved), claim .. 'asks', attempt.counter .. ' paid')
end

-- It waits no more: it was answered, has given up, or is over.
local function stand_up(desk, attempt)
  leave(desk, attempt)
  rouse(desk.book, attempt.path)
end

local function answer(desk, attempt)
  top_up(desk, attempt)
  stand_up(desk, attempt)
end

-- An attempt is over that may have waited in its place.
local function get_up(desk, path, nonce, blocked)
  if words(blocked or '')[4] == nonce then stand_up(desk, waiter(desk, path)) end
end
