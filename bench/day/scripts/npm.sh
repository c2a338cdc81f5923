# A front end's build: 300 packages, install scripts among them, then compiler, linter and tests.
. /day/common.sh
cp -r /cache/npm /root/.npm
cp -r /cache/project /srv/web && cd /srv/web
npm ci --silent
mkdir src
printf 'export const twice = (x: number): number => x * 2;\n' >src/twice.ts
printf 'const { twice } = require("./twice");\ntest("twice", () => expect(twice(21)).toBe(42));\n' \
    >src/twice.test.js
npx tsc --outDir out src/twice.ts --module commonjs
cp out/twice.js src/
npx eslint --no-eslintrc --parser-options=ecmaVersion:2020,sourceType:module src/twice.js
npx esbuild src/twice.ts --bundle --minify --outfile=out/bundle.js
npx jest --silent
if [ "$ROUNDS" -gt 1 ]; then
    npm install --silent --no-save express@4.22.3
    npm ls >/dev/null
    npm run env >/dev/null
    npm version --silent --no-git-tag-version 1.0.0 >/dev/null
    npm pack --silent --pack-destination /tmp
    printf 'const e = require("express")();\ne.get("/", (q, r) => r.send("ok"));\nconst s = e.listen(0, () => fetch(`http://127.0.0.1:${s.address().port}/`).then(r => r.text()).then(t => { console.log(t); process.exit(0) }));\n' >server.js
    node server.js
    npm cache verify >/dev/null
    rm -rf node_modules && npm ci --silent
fi
