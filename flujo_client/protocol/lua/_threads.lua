--[[ threads — how many threads of a run are running; prepended at load after the accounts.
"life|<account>" = "<running> <live> <state>": what runs in an account, its own thread of steps and those child accounts in which
anything runs; how many child accounts are open; new, open or closed. A branch's thread, or the run's, runs from its first dispatch to
its end, also between two steps, but not while its attempt is blocked, paused or waits for its time ("rest|<path>" = its chain), nor
while its account has open child accounts. ]]
local function life(book, id)
  local entry = book.lives[id]
  if not entry then
    local running, live, state = string.match(redis.call('HGET', book.key, 'life|' .. id) or '', '^(%d+) (%d+) (%a+)$')
    entry = {running = tonumber(running or 0), live = tonumber(live or 0), state = state or 'new'}
    book.lives[id] = entry
  end
  return entry
end

-- One thing more, or fewer, runs in the account at `level` of a chain; what is above hears of the first and the last.
local function stir(book, chain, level, change)
  for i = level, #chain do
    if not chain[i].cap then
      local entry = life(book, chain[i].id)
      local before = entry.running
      entry.running, entry.touched = math.max(0, before + change), true
      if entry.running == 0 then book.idle[#book.idle + 1] = {chain = chain, level = i} end
      if (before == 0) == (entry.running == 0) then return end
    end
  end
end

-- The level of the nearest account that is no cap, from a level on.
local function thread_at(chain, level)
  while level < #chain and chain[level].cap do level = level + 1 end
  return level
end

-- The accounts of a dispatch come to life with it; the account above pauses its own thread while it has live branches.
local function open_chain(book, chain, level)
  level = thread_at(chain, level or 1)
  local entry = life(book, chain[level].id)
  if level == #chain or entry.state ~= 'new' then return end
  local above = thread_at(chain, level + 1)
  open_chain(book, chain, above)
  entry.state = 'open'
  stir(book, chain, level, 1)
  local parent = life(book, chain[above].id)
  parent.live, parent.touched = parent.live + 1, true
  if parent.live == 1 then stir(book, chain, above, -1) end
end

local function close_branch(book, chain)
  local entry = life(book, chain[1].id)
  if entry.state ~= 'open' then return end
  entry.state, entry.touched = 'closed', true
  local above = thread_at(chain, 2)
  local parent = life(book, chain[above].id)
  parent.live, parent.touched = parent.live - 1, true
  if parent.live == 0 then stir(book, chain, above, 1) end
  if entry.running > 0 then
    entry.running = 0
    stir(book, chain, above, -1)
  end
end

-- The chain of a thread that rests, else false.
local function rests_as(book, path)
  if book.resting[path] == nil then book.resting[path] = redis.call('HGET', book.key, 'rest|' .. path) end
  return book.resting[path]
end

-- A thread stops running without being over, and runs again; both once.
local function rest(book, path, chain)
  if rests_as(book, path) then return end
  book.resting[path] = chain.text
  book.writes[#book.writes + 1] = {'HSET', book.key, 'rest|' .. path, chain.text}
  stir(book, chain, thread_at(chain, 1), -1)
end

local function rouse(book, path)
  local text = rests_as(book, path)
  if not text then return end
  book.resting[path] = false
  book.writes[#book.writes + 1] = {'HDEL', book.key, 'rest|' .. path}
  local chain = chain_of(text)
  stir(book, chain, thread_at(chain, 1), 1)
end
