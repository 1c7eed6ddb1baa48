// Keeps the page for times without a network. export.py --page puts VERSION and FILES before this.
const OWN = `${registration.scope} `, NAME = OWN + VERSION;  // other pages of the host have caches, too

addEventListener("install", event => event.waitUntil(
  caches.open(NAME).then(cache => cache.addAll(FILES)).then(() => skipWaiting())));

addEventListener("activate", event => event.waitUntil(
  caches.keys()
    .then(names => names.filter(name => name.startsWith(OWN) && name !== NAME))
    .then(names => Promise.all(names.map(name => caches.delete(name))))
    .then(() => clients.claim())));

addEventListener("fetch", event => event.respondWith(
  caches.match(event.request, {cacheName: NAME, ignoreSearch: true})
    .then(found => found ?? fetch(event.request))));
